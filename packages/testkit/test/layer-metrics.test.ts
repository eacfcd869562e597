import {
  BACKEND_METRICS,
  IntegrityLayer,
  MemoryBackend,
  type MetricLabels,
  MetricsLayer,
  type MetricsSink,
} from "@kvferry/core";
import { describe, expect, it } from "vitest";
import { numbers } from "../src/bench.js";
import { FaultyBackend } from "../src/index.js";
import { openBench } from "./open-bench.js";

/** Keeps sums, and checks each number against the definitions. */
class TestSink implements MetricsSink {
  readonly values: Map<string, number> = new Map();
  readonly durations: string[] = [];

  count(name: string, labels: MetricLabels, value: number): void {
    const at = this.#at("counter", name, labels);
    this.values.set(at, (this.values.get(at) ?? 0) + value);
  }

  observe(name: string, labels: MetricLabels, value: number): void {
    this.#at("histogram", name, labels);
    expect(value).toBeGreaterThanOrEqual(0);
    expect(value).toBeLessThan(10);
    this.durations.push(`${labels.operation} ${labels.result}`);
  }

  gauge(name: string, labels: MetricLabels, value: number): void {
    this.values.set(this.#at("gauge", name, labels), value);
  }

  #at(type: string, name: string, labels: MetricLabels): string {
    const definition = BACKEND_METRICS.find((each) => each.name === name);
    expect(definition?.type).toBe(type);
    expect(Object.keys(labels)).toEqual(definition?.labelNames);
    const { backend, ...rest } = labels;
    expect(backend).toBe("ram");
    return [name.replace("kvferry_backend_", ""), ...Object.values(rest)].join(" ").trim();
  }
}

async function setup() {
  const sink = new TestSink();
  const faulty = new FaultyBackend(new MemoryBackend());
  return { sink, faulty, bench: await openBench(new MetricsLayer(faulty, { sink, backend: "ram" })) };
}

describe("the metrics layer", () => {
  it("counts keys by outcome and code, and bytes", async () => {
    const { sink, faulty, bench } = await setup();
    await bench.store([1, 2, 3]);
    await bench.store([1]);
    await bench.load([1, 2, 9]);
    await bench.lookup([1, 9, 8]);
    await bench.remove([1, 9]);
    faulty.fail("load", "IO", { times: 1 });
    await bench.load([2, 3]);
    await bench.scan();
    expect(Object.fromEntries(sink.values)).toEqual({
      ...{ "keys_total store stored": 3, "keys_total store present": 1, "bytes_total store": 3 * 256 },
      ...{ "keys_total load loaded": 2, "keys_total load miss": 1, "bytes_total load": 2 * 256 },
      ...{ "keys_total lookup hit": 1, "keys_total lookup miss": 2 },
      ...{ "keys_total remove removed": 1, "keys_total remove miss": 1 },
      ...{ "keys_total load failed IO": 2, "keys_total scan listed": 2 },
      ...{ calls_in_flight: 0 },
    });
  });

  it("times each call by how it ended", async () => {
    const { sink, faulty, bench } = await setup();
    await bench.store(numbers(4));
    faulty.fail("load", "IO", { times: 1 });
    await bench.load([1, 2]);
    faulty.fail("load", "IO", { times: 1, probability: 0.5 });
    await bench.load(numbers(40));
    faulty.reject("load", "UNAVAILABLE", 1);
    await expect(bench.load([1])).rejects.toMatchObject({ code: "UNAVAILABLE" });
    await bench.backend.usage();
    expect(sink.durations).toEqual(["store ok", "load failed", "load partial", "load error", "usage ok"]);
    expect(sink.values.get("errors_total load UNAVAILABLE")).toBe(1);
    expect(sink.values.get("calls_in_flight")).toBe(0);
  });

  it("counts blocks that went away", async () => {
    const sink = new TestSink();
    const backend = new MetricsLayer(
      new IntegrityLayer(new MemoryBackend(), { checksum: () => Math.random() * 2 ** 32 }),
      {
        sink,
        backend: "ram",
      },
    );
    const bench = await openBench(backend);
    await bench.store([1]);
    await bench.load([1]);
    expect(sink.values.get("removed_blocks_total corrupt")).toBe(1);
    expect(sink.values.get("keys_total load corrupt CORRUPT")).toBe(1);
  });

  it("costs no block when the sink throws", async () => {
    const broken = () => {
      throw new Error("the exporter is broken");
    };
    const sink = { count: broken, observe: broken, gauge: broken };
    const bench = await openBench(new MetricsLayer(new MemoryBackend(), { sink }));
    await bench.mustStore([1]);
    await bench.mustLoad([1]);
    expect(await bench.scan()).toHaveLength(1);
  });

  it("has names in base units, and help for each", () => {
    for (const { name, type, help, buckets } of BACKEND_METRICS) {
      expect(name).toMatch(/^kvferry_backend_[a-z_]+$/);
      expect(name.endsWith("_total")).toBe(type === "counter");
      if (type === "histogram") expect(name).toMatch(/_seconds$/);
      expect(help.length).toBeGreaterThan(10);
      expect(buckets !== undefined).toBe(type === "histogram");
    }
  });
});

import {
  CircuitBreakerLayer,
  type CircuitChange,
  LookupState,
  MemoryBackend,
  Outcome,
  outcomeCode,
} from "@kvferry/core";
import { describe, expect, it } from "vitest";
import { assertAllFailed, assertOutcomes, assertRejects, numbers } from "../src/bench.js";
import { FaultyBackend } from "../src/index.js";
import { openBench, TestClock } from "./open-bench.js";

async function setup(config: ConstructorParameters<typeof CircuitBreakerLayer>[1] = {}) {
  const clock = new TestClock();
  const changes: string[] = [];
  const onStateChange = ({ from, to, code }: CircuitChange): void => {
    changes.push(`${from} ${to} ${code ?? ""}`.trim());
  };
  const faulty = new FaultyBackend(new MemoryBackend());
  const layer = new CircuitBreakerLayer(faulty, { failuresInRowMax: 3, openMs: 1000, ...config, onStateChange });
  return { clock, changes, faulty, layer, bench: await openBench(layer, { clock }) };
}

describe("the circuit breaker", () => {
  it("answers everything at once while it is open, and leaves the storage alone", async () => {
    const { faulty, layer, bench, changes } = await setup();
    await bench.mustStore([1]);
    const fault = faulty.fail("load", "IO");
    for (const _ of numbers(3)) await bench.load([1]);
    expect(layer.circuit).toBe("open");
    expect(changes).toEqual(["closed open IO"]);
    fault.remove();
    const before = { ...faulty.calls };
    expect([...(await bench.lookup([1]))]).toEqual([LookupState.MISS]);
    const stored = await bench.store([2]);
    assertOutcomes(stored, [Outcome.DROPPED], "store");
    expect(outcomeCode(stored, 0)).toBe("UNAVAILABLE");
    assertAllFailed((await bench.load([1])).result, "UNAVAILABLE", "load");
    assertAllFailed(await bench.remove([1]), "UNAVAILABLE", "remove");
    await assertRejects(() => bench.backend.usage(), "UNAVAILABLE", "usage");
    await assertRejects(() => bench.scan(), "UNAVAILABLE", "scan");
    expect(faulty.calls).toEqual(before);
  });

  it("lets one probe through after its time, and closes when that is good", async () => {
    const { clock, faulty, layer, bench, changes } = await setup();
    await bench.mustStore([1]);
    const fault = faulty.fail("load", "IO");
    for (const _ of numbers(3)) await bench.load([1]);
    fault.remove();
    clock.ms += 999;
    assertAllFailed((await bench.load([1])).result, "UNAVAILABLE", "load before the time");
    clock.ms += 1;
    const hang = faulty.hang("load");
    const probe = bench.load([1]);
    expect(layer.circuit).toBe("half-open");
    assertAllFailed((await bench.load([1])).result, "UNAVAILABLE", "load beside the probe");
    hang.remove();
    assertOutcomes((await probe).result, [Outcome.LOADED], "probe");
    expect(layer.circuit).toBe("closed");
    await bench.mustLoad([1]);
    expect(changes).toEqual(["closed open IO", "open half-open", "half-open closed"]);
  });

  it("stays open when the probe is bad, and probes again when nobody can tell", async () => {
    const { clock, faulty, layer, bench } = await setup();
    faulty.fail("load", "IO");
    for (const _ of numbers(3)) await bench.load([1]);
    clock.ms += 1000;
    assertAllFailed((await bench.load([1])).result, "IO", "probe");
    expect(layer.circuit).toBe("open");
    clock.ms += 1000;
    faulty.fail("store", "ABORTED", { times: 1 });
    await bench.store([1]);
    expect(layer.circuit).toBe("half-open");
    await bench.mustStore([1]);
    expect(layer.circuit).toBe("closed");
  });

  it("opens by the share of failures within its window, and forgets what is older", async () => {
    const { clock, faulty, layer, bench } = await setup({
      ...{ failuresInRowMax: 1000, failureRatioMax: 0.5, windowCallsMin: 10, windowMs: 1000 },
    });
    const failing = async (count: number) => {
      const fault = faulty.fail("load", "IO");
      for (const _ of numbers(count)) await bench.load([1]);
      fault.remove();
    };
    await failing(9);
    expect(layer.circuit).toBe("closed"); // too few calls to judge by
    clock.ms += 2000;
    for (const _ of numbers(6)) await bench.load([1]);
    await failing(6);
    expect(layer.circuit).toBe("closed"); // half of 12
    await failing(1);
    expect(layer.circuit).toBe("open");
  });

  it("begins to count anew once it has closed", async () => {
    const { clock, faulty, layer, bench } = await setup({
      ...{ failuresInRowMax: 1000, failureRatioMax: 0.5, windowCallsMin: 4, windowMs: 1_000_000, openMs: 1 },
    });
    const fault = faulty.fail("load", "IO");
    for (const _ of numbers(4)) await bench.load([1]);
    fault.remove();
    clock.ms += 1;
    await bench.load([1]);
    expect(layer.circuit).toBe("closed");
    faulty.fail("load", "IO", { times: 1 });
    await bench.load([1]);
    expect(layer.circuit).toBe("closed");
  });

  it("does not take the caller's and the block's own trouble for the storage's", async () => {
    for (const code of ["ABORTED", "BUSY", "NO_SPACE", "CORRUPT", "INVALID_ARGUMENT"] as const) {
      const { faulty, layer, bench } = await setup({ failuresInRowMax: 1 });
      faulty.fail("store", code);
      await bench.store([1]);
      expect(layer.circuit, code).toBe("closed");
    }
  });

  it("takes a call for failed when most of its keys are, or when it rejects", async () => {
    const { faulty, layer, bench } = await setup({ failuresInRowMax: 1 });
    await bench.load([1, 2, 3]);
    faulty.reject("lookup", "DEADLINE");
    await assertRejects(() => bench.lookup([1]), "DEADLINE", "lookup");
    expect(layer.circuit).toBe("open");
  });

  it("survives a listener that throws", async () => {
    const faulty = new FaultyBackend(new MemoryBackend());
    const layer = new CircuitBreakerLayer(faulty, {
      failuresInRowMax: 1,
      onStateChange() {
        throw new Error("a listener's own trouble");
      },
    });
    const bench = await openBench(layer);
    faulty.fail("load", "IO");
    assertAllFailed((await bench.load([1])).result, "IO", "load");
    expect(layer.circuit).toBe("open");
  });
});

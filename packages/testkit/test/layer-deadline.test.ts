import {
  type AuthorOptions,
  type BatchResult,
  type BlockBatch,
  DeadlineLayer,
  type KeyBatch,
  MemoryBackend,
  Outcome,
  setOutcome,
  uniformResult,
} from "@kvferry/core";
import { describe, expect, it } from "vitest";
import { assertAllFailed, assertOutcomes, assertRejects, sleep } from "../src/bench.js";
import { FaultyBackend, type FaultyOptions } from "../src/index.js";
import { openBench } from "./open-bench.js";

async function setup(options: FaultyOptions, config: ConstructorParameters<typeof DeadlineLayer>[1]) {
  const faulty = new FaultyBackend(new MemoryBackend(), options);
  const layer = new DeadlineLayer(faulty, { graceMs: 1, ...config });
  return { faulty, layer, bench: await openBench(layer) };
}

const abandonable: FaultyOptions = { capabilities: { abandonable: true } };
const waiting: FaultyOptions = { capabilities: { abandonable: false } };

/** Stores the first key, and says so a little after the abort. */
class HalfDone extends MemoryBackend {
  protected override _store({ keys }: BlockBatch, { signal }: AuthorOptions): Promise<BatchResult> {
    const result = uniformResult(keys.count, Outcome.FAILED, "DEADLINE");
    setOutcome(result, 0, Outcome.STORED);
    return new Promise((resolve) => signal?.addEventListener("abort", () => setTimeout(resolve, 30, result)));
  }
}

/** Never ends, and holds on to what it was given. */
class Collects extends MemoryBackend {
  readonly keys: KeyBatch[] = [];
  slots: Uint32Array | undefined;

  protected override _load({ keys, slots }: BlockBatch): Promise<never> {
    this.slots = slots;
    return this.#hang(keys);
  }

  protected override _remove(keys: KeyBatch): Promise<never> {
    return this.#hang(keys);
  }

  protected override _lookup(keys: KeyBatch): Promise<never> {
    return this.#hang(keys);
  }

  #hang(keys: KeyBatch): Promise<never> {
    this.keys.push(keys);
    return new Promise(() => {});
  }
}

describe("the deadline layer", () => {
  it("gives the caller its slots back when an abandonable backend hangs", async () => {
    const { faulty, layer, bench } = await setup(abandonable, { loadMs: 20, storeMs: 20 });
    await bench.mustStore([1]);
    const hang = faulty.hang("load");
    const { result, region } = await bench.load([1]);
    assertAllFailed(result, "DEADLINE", "load of a backend that hangs");
    expect(layer.abandonedCalls).toBe(1);
    const before = region.bytes.slice();
    hang.remove(); // the call below goes on now, and its signal is aborted
    await sleep(10);
    expect(region.bytes).toEqual(before);
    expect(layer.abandonedCalls).toBe(0);
    await bench.mustLoad([1]);
  });

  it("keeps the slots until the I/O has ended where the backend is not abandonable", async () => {
    const { faulty, layer, bench } = await setup(waiting, { loadMs: 10 });
    await bench.mustStore([1]);
    const hang = faulty.hang("load");
    let over = false;
    const loading = bench.load([1]).then((loaded) => {
      over = true;
      return loaded;
    });
    await sleep(60);
    expect(over).toBe(false);
    expect(layer.abandonedCalls).toBe(0);
    hang.remove();
    assertAllFailed((await loading).result, "DEADLINE", "load that was waited for");
  });

  it("takes the backend's own answer key by key when it comes in time", async () => {
    const late = new HalfDone();
    const bench = await openBench(new DeadlineLayer(late, { storeMs: 5, graceMs: 2000 }));
    assertOutcomes(await bench.store([1, 2]), [Outcome.STORED, Outcome.FAILED], "store that ended by itself");
  });

  it("lets calls that are left alone go on with keys and slots of their own", async () => {
    const late = new Collects();
    const bench = await openBench(new DeadlineLayer(late, { loadMs: 5, removeMs: 5, lookupMs: 5, graceMs: 0 }));
    const batch = bench.batch([1, 2], bench.region(2));
    await bench.loadBatch(batch);
    const removed = bench.keys([3]);
    await bench.backend.remove(removed);
    const looked = bench.keys([4]);
    await assertRejects(() => bench.backend.lookup(looked), "DEADLINE", "lookup");
    for (const each of [batch.keys, removed, looked]) each.bytes.fill(0); // the caller's memory is the caller's again
    batch.slots.fill(9);
    expect(late.keys.map(({ bytes }) => bytes)).toEqual([[1, 2], [3], [4]].map((ids) => bench.keys(ids).bytes));
    expect([...(late.slots ?? [])]).toEqual([0, 1]);
  });

  it("leaves lookup, remove and usage alone on every backend: they touch no slot", async () => {
    const { faulty, bench } = await setup(waiting, { lookupMs: 10, removeMs: 10, usageMs: 10 });
    await bench.mustStore([1]);
    const hangs = [faulty.hang("lookup"), faulty.hang("remove"), faulty.hang("usage")];
    await assertRejects(() => bench.lookup([1]), "DEADLINE", "lookup");
    await assertRejects(() => bench.backend.usage(), "DEADLINE", "usage");
    const keys = bench.keys([1]);
    const result = await bench.backend.remove(keys);
    assertAllFailed(result, "DEADLINE", "remove");
    keys.bytes.set(bench.key(7)); // the caller's memory is its own again: nothing of it may still be read
    for (const hang of hangs) hang.remove();
    await sleep(10);
    await bench.mustStore([7]);
    await bench.mustLoad([7]);
  });

  it("stops asking when too many calls hang", async () => {
    const { faulty, bench } = await setup(abandonable, { loadMs: 5, abandonedCallsMax: 2 });
    const hang = faulty.hang("load");
    await bench.load([1]);
    await bench.load([1]);
    const asked = faulty.calls.load;
    assertAllFailed((await bench.load([1])).result, "UNAVAILABLE", "the third load");
    await assertRejects(() => bench.lookup([1]), "UNAVAILABLE", "lookup meanwhile");
    expect(faulty.calls.load).toBe(asked);
    hang.remove();
    await sleep(5);
    await bench.mustMiss([1]);
  });

  it("obeys the caller's own signal too", async () => {
    const { faulty, bench } = await setup(abandonable, { loadMs: 5000 });
    const hang = faulty.hang("load");
    assertAllFailed((await bench.load([1], { deadlineMs: 10 })).result, "DEADLINE", "the caller's deadline");
    const controller = new AbortController();
    const loading = bench.load([1], { signal: controller.signal });
    controller.abort();
    assertAllFailed((await loading).result, "ABORTED", "the caller's abort");
    hang.remove();
  });

  it("lets go of a backend that does not close, and says so", async () => {
    const { faulty, layer, bench } = await setup(abandonable, { loadMs: 5, closeMs: 20 });
    const hang = faulty.hang("load");
    await bench.load([1]);
    await assertRejects(() => layer.close(), "DEADLINE", "close of a backend that hangs");
    expect(layer.state).toBe("closed");
    hang.remove();
  });

  it("passes everything on when there is time", async () => {
    const { bench } = await setup(waiting, { lookupMs: 5000, loadMs: 5000, storeMs: 5000 });
    await bench.mustStore([1, 2]);
    await bench.mustLoad([1, 2]);
    assertOutcomes(await bench.remove([1, 3]), [Outcome.REMOVED, Outcome.MISS], "remove");
  });

  it("refuses settings that are no times", () => {
    for (const field of ["loadMs", "graceMs", "abandonedCallsMax"]) {
      expect(() => new DeadlineLayer(new MemoryBackend(), { [field]: -1 })).toThrow(
        expect.objectContaining({ code: "CONFIG_INVALID", context: { field } }) as never,
      );
    }
  });
});

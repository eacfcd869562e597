import { LookupState, MemoryBackend, Outcome, RetryLayer } from "@kvferry/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { assertAllFailed, assertOutcomes, numbers } from "../src/bench.js";
import { FaultyBackend } from "../src/index.js";
import { openBench } from "./open-bench.js";

const { LOADED, STORED } = Outcome;

async function setup(config: ConstructorParameters<typeof RetryLayer>[1] = {}, seed = 1) {
  const faulty = new FaultyBackend(new MemoryBackend(), { seed });
  const layer = new RetryLayer(faulty, { backoffMs: 1, random: () => 0, ...config });
  return { faulty, bench: await openBench(layer) };
}

describe("the retry layer", { timeout: 30_000 }, () => {
  it("tries the failed keys again, and only those", async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(), fc.integer({ min: 1, max: 40 }), async (seed, count) => {
        const { faulty, bench } = await setup({ attemptsMax: 2 }, seed);
        const ids = numbers(count);
        faulty.fail("store", "IO", { probability: 0.4, times: 1 });
        const result = await bench.store(ids);
        assertOutcomes(
          result,
          ids.map(() => STORED),
          "store that failed for some keys once",
        );
        expect(faulty.calls.store).toBeLessThanOrEqual(2);
        faulty.fail("load", "STALE", { probability: 0.4, times: 1 });
        await bench.mustLoad(ids, "load that failed for some keys once");
        const again = faulty.keys.load - count;
        expect(again).toBeLessThanOrEqual(count);
        if (faulty.calls.load === 1) expect(again).toBe(0);
      }),
      { numRuns: 30 },
    );
  });

  it("asks again for exactly the keys that failed", async () => {
    const { faulty, bench } = await setup();
    await bench.mustStore(numbers(10));
    faulty.fail("load", "IO", { times: 1, probability: 0.5 });
    await bench.mustLoad(numbers(10));
    const { load } = faulty.keys;
    expect(load).toBeGreaterThan(10);
    expect(load).toBeLessThan(20);
  });

  it("does not ask again for what a retry has brought", async () => {
    const { faulty, bench } = await setup({ attemptsMax: 6 });
    await bench.mustStore(numbers(20));
    faulty.fail("load", "IO", { times: 1 });
    await bench.mustLoad(numbers(20));
    expect(faulty.calls.load).toBe(2);
  });

  it("gives up after attemptsMax, and each key keeps its code", async () => {
    const { faulty, bench } = await setup({ attemptsMax: 4 });
    faulty.fail("load", "UNAVAILABLE");
    assertAllFailed((await bench.load([1, 2])).result, "UNAVAILABLE", "load");
    expect(faulty.calls.load).toBe(4);
  });

  it("does not try again what is permanent or was ended by the caller", async () => {
    for (const code of ["NO_SPACE", "PERMISSION", "CORRUPT", "ABORTED", "INVALID_ARGUMENT"] as const) {
      const { faulty, bench } = await setup();
      faulty.fail("store", code);
      assertAllFailed(await bench.store([1]), code, code);
      expect(faulty.calls.store, code).toBe(1);
    }
  });

  it("stops at the deadline, without waiting for the rest of a long backoff", async () => {
    const { faulty, bench } = await setup({ attemptsMax: 10, backoffMs: 60_000, backoffMsMax: 60_000 });
    faulty.fail("load", "IO");
    assertAllFailed((await bench.load([1], { deadlineMs: 30 })).result, "IO", "load"); // the backoff is longer than a test may take
    expect(faulty.calls.load).toBe(1);
  });

  it("waits longer each time, up to a bound, and never less than half of it", async () => {
    const { faulty, bench } = await setup({ attemptsMax: 5, backoffMs: 10, backoffMsMax: 20, random: () => 0 });
    faulty.fail("load", "IO");
    const startMs = performance.now();
    await bench.load([1]);
    expect(performance.now() - startMs).toBeGreaterThan(5 + 10 + 10 + 10 - 4); // halves of 10, 20, 20, 20; timers round
  });

  it("spends no more retries than its budget", async () => {
    const { faulty, bench } = await setup({ attemptsMax: 10, retriesBurstMax: 3, retriesPerCallMax: 0.5 });
    faulty.fail("load", "IO");
    await bench.load([1]);
    expect(faulty.calls.load).toBe(4);
    for (let i = 0; i < 10; i++) await bench.load([1]);
    expect(faulty.calls.load).toBe(4 + 10 + 5);
  });

  it("tries a rejected call again, and makes its error persistent in the end", async () => {
    const { faulty, bench } = await setup({ attemptsMax: 3 });
    await bench.mustStore([1]);
    faulty.reject("lookup", "UNAVAILABLE", 2);
    expect([...(await bench.lookup([1]))]).toEqual([LookupState.HIT]);
    expect(faulty.calls.lookup).toBe(3);
    const fault = faulty.reject("store", "IO");
    await expect(bench.store([2])).rejects.toMatchObject({ code: "IO", status: "persistent" });
    expect(faulty.calls.store).toBe(1 + 3);
    fault.remove();
    faulty.reject("load", "INTERNAL");
    await expect(bench.load([1])).rejects.toMatchObject({ code: "INTERNAL", status: "permanent" });
    expect(faulty.calls.load).toBe(1);
  });

  it("keeps what the first attempt has achieved when a later one rejects", async () => {
    const { faulty, bench } = await setup({ attemptsMax: 2 });
    await bench.mustStore([1, 2, 3, 4]);
    const fault = faulty.fail("load", "IO", { probability: 0.5 });
    const loading = bench.load([1, 2, 3, 4]);
    fault.remove();
    faulty.reject("load", "UNAVAILABLE");
    const loaded = await loading;
    bench.assertLoadedContents(loaded, [1, 2, 3, 4], "load");
    assertOutcomes(
      loaded.result,
      numbers(4).map(() => [LOADED, Outcome.FAILED]),
      "load",
    );
    expect([...loaded.result.outcomes]).toContain(LOADED);
    expect([...loaded.result.outcomes]).toContain(Outcome.FAILED);
  });
});

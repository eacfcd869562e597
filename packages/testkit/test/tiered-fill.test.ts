// Filling a tier ahead of those who will ask: the right bytes, from wherever they are sound.
import { MemoryBackend, Outcome, TieredStore } from "@kvferry/core";
import { afterEach, expect, it } from "vitest";
import { type Bench, describeOutcome } from "../src/bench.js";
import { FaultyBackend } from "../src/index.js";
import { openBench } from "./open-bench.js";

const { CORRUPT, DROPPED, FAILED, MISS, PRESENT, STORED } = Outcome;
const benches: Bench[] = [];
afterEach(async () => {
  for (const { backend } of benches.splice(0)) await backend.close();
});

/** An empty tier over two that have the blocks 1 to 4. */
async function filled() {
  const tiers = [0, 1, 2].map(() => new FaultyBackend(new MemoryBackend()));
  const [top, middle, last] = tiers as [FaultyBackend, FaultyBackend, FaultyBackend];
  const store = new TieredStore({
    tiers: [
      { name: "top", backend: top, write: "none" },
      { name: "middle", backend: middle },
      { name: "last", backend: last },
    ],
  });
  const bench = await openBench(store);
  benches.push(bench);
  await bench.mustStore([1, 2, 3, 4]);
  return { store, bench, top, middle, last };
}

async function fill(store: TieredStore, bench: Bench, ids: readonly number[]): Promise<number[]> {
  return [...(await store.fill("top", bench.keys(ids))).outcomes];
}

it("puts blocks into the tier once, and says what it cannot", async () => {
  const { store, bench, middle, last } = await filled();
  expect(await fill(store, bench, [1, 9, 2])).toEqual([STORED, MISS, STORED]);
  expect(await fill(store, bench, [1, 3])).toEqual([PRESENT, STORED]);
  expect([...(await store.tiersOf(bench.keys([1, 4, 9])))]).toEqual([0b111, 0b110, 0]);
  expect(store.tierStatus()[0]).toMatchObject({ hits: 0, moved: { "warm done": 3 } });
  middle.fail("load", "IO");
  last.fail("load", "IO");
  await bench.mustLoad([1, 2, 3]); // nothing else is asked
});

it("takes a block that is damaged in one tier from the next, and never a damaged one", async () => {
  const { store, bench, middle, last } = await filled();
  middle.fail("load", "CORRUPT", { outcome: CORRUPT, times: 1 });
  expect(await fill(store, bench, [1])).toEqual([STORED]);
  await bench.mustLoad([1]);
  middle.fail("load", "CORRUPT", { outcome: CORRUPT, times: 1 });
  last.fail("load", "CORRUPT", { outcome: CORRUPT, times: 1 });
  expect(await fill(store, bench, [2])).toEqual([CORRUPT]);
  expect([...(await store.tiersOf(bench.keys([2])))]).toEqual([0]);
});

it("tells of a tier that takes nothing, and of one that is not there", async () => {
  const { store, bench, top } = await filled();
  top.fail("store", "NO_SPACE", { outcome: DROPPED, times: 1 });
  expect(await fill(store, bench, [1])).toEqual([DROPPED]);
  await expect(store.fill("other", bench.keys([1]))).rejects.toThrow("top, middle, last");
});

it("ends where it is told to, and where the store closes", async () => {
  const { store, bench } = await filled();
  const aborted = await store.fill("top", bench.keys([1, 2]), { signal: AbortSignal.abort() });
  expect([describeOutcome(aborted, 0), describeOutcome(aborted, 1)]).toEqual(["FAILED(ABORTED)", "FAILED(ABORTED)"]);
  const filling = store.fill("top", bench.keys([1, 2, 3, 4]));
  await store.close();
  for (const outcome of (await filling).outcomes) expect([STORED, FAILED]).toContain(outcome);
});

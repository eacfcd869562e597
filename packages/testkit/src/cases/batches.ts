import assert from "node:assert/strict";
import { createMemoryRegion, LookupState, Outcome, packKeys, type Region, slotBytes } from "@kvferry/core";
import { assertOutcomes, assertRejects, type Bench, numbers, SENTINEL } from "../bench.js";
import type { ConformanceCase } from "../case.js";

const UNALIGNED_BLOCK_BYTES: readonly number[] = [1, 511, 4095, 4097, 65_537];

/** The bytes of slots hold blocks; everything else must still be sentinels. */
function assertUntouched(region: Region, slots: readonly number[], blockBytes: number, why: string): void {
  for (let row = 0; row < region.rows; row++) {
    const used = slots.includes(row) ? blockBytes : 0;
    const rest = slotBytes(region, row).subarray(used);
    const at = rest.findIndex((byte) => byte !== SENTINEL);
    assert.equal(at, -1, `${why}: byte ${used + at} of row ${row} was touched`);
  }
}

async function roundTrip(bench: Bench, region: Region, why: string): Promise<void> {
  const slots = [region.rows - 1, 0, 2];
  const ids = [1, 2, 3];
  for (const [i, id] of ids.entries()) region.bytes.set(bench.content(id), (slots[i] as number) * region.rowBytes);
  const before = region.bytes.slice();
  const stored = await bench.storeBatch(bench.batch(ids, region, slots));
  assertOutcomes(stored, [Outcome.STORED, Outcome.STORED, Outcome.STORED], `${why}: store`);
  assert.ok(Buffer.from(before).equals(region.bytes), `${why}: a store must not change the region`);
  region.bytes.fill(SENTINEL);
  const back = [1, region.rows - 2, 0];
  const loaded = await bench.loadBatch(bench.batch(ids, region, back));
  assertOutcomes(loaded, [Outcome.LOADED, Outcome.LOADED, Outcome.LOADED], `${why}: load`);
  bench.assertContents(region, ids, why, back);
  assertUntouched(region, back, bench.blockBytes, why);
}

/** Batches: which bytes go where, and what each key is told. */
export const batchCases: readonly ConformanceCase[] = [
  {
    name: "a stored block comes back with the same bytes",
    async run(kit) {
      const bench = await kit.setup();
      await bench.mustMiss([1]);
      await bench.mustStore([1]);
      await bench.mustLoad([1]);
    },
  },
  {
    name: "each key goes with its own slot, in any order, and nothing else of the region is touched",
    async run(kit) {
      const bench = await kit.setup();
      await roundTrip(bench, bench.region(7), "rows of exactly a block");
    },
  },
  {
    name: "rows may be longer than blocks",
    async run(kit) {
      for (const extra of [1, 4096]) {
        const bench = await kit.setup();
        await roundTrip(bench, bench.region(6, bench.blockBytes + extra), `rows of a block and ${extra} bytes`);
      }
    },
  },
  {
    name: "a region may lie anywhere in its buffer",
    async run(kit) {
      const bench = await kit.setup();
      const rowBytes = bench.blockBytes + 3;
      const bytes = createMemoryRegion(1, 6 * rowBytes + 5).bytes.subarray(5);
      bytes.fill(SENTINEL);
      await roundTrip(bench, { rows: 6, rowBytes, bytes }, "a region at an odd address");
    },
  },
  {
    name: "blocks of sizes that are no multiple of anything come back whole",
    async run(kit) {
      for (const blockBytes of UNALIGNED_BLOCK_BYTES) {
        const bench = await kit.setup({ blockBytes: await within(kit.create(), blockBytes) });
        await roundTrip(bench, bench.region(5, bench.blockBytes + 7), `blocks of ${bench.blockBytes} bytes`);
      }
    },
  },
  {
    name: "a large batch comes back whole",
    async run(kit) {
      const bench = await kit.setup({ blockBytes: await within(kit.create(), 256) });
      const ids = numbers(Math.min(1024, bench.backend.manifest.limits.batchKeysMax));
      await bench.mustStore(ids);
      await bench.mustLoad(ids.toReversed());
    },
  },
  {
    name: "an empty batch is an empty answer",
    async run(kit) {
      const bench = await kit.setup();
      assert.equal((await bench.lookup([])).length, 0);
      assertOutcomes(await bench.store([]), [], "store");
      assertOutcomes((await bench.load([])).result, [], "load");
      if (bench.backend.manifest.capabilities.remove) assertOutcomes(await bench.remove([]), [], "remove");
    },
  },
  {
    name: "a batch of present and absent keys says which is which",
    async run(kit) {
      const bench = await kit.setup();
      await bench.mustStore([1, 3, 5]);
      const ids = [0, 1, 2, 3, 4, 5, 6];
      const loaded = await bench.load(ids);
      const expected = ids.map((id) => (id % 2 === 1 ? Outcome.LOADED : Outcome.MISS));
      assertOutcomes(loaded.result, expected, "load");
      bench.assertLoadedContents(loaded, ids, "load");
      assertOutcomes(
        await bench.store(ids),
        ids.map((id) => (id % 2 === 1 ? [Outcome.PRESENT, Outcome.STORED] : Outcome.STORED)),
        "store of some that are there",
      );
      await bench.mustLoad(ids);
    },
  },
  {
    name: "a key that was never stored is a MISS",
    async run(kit) {
      const bench = await kit.setup();
      await bench.mustStore([1]);
      await bench.mustMiss(numbers(20, 100));
      assert.deepEqual([...(await bench.lookup([100, 1]))], [LookupState.MISS, LookupState.HIT]);
    },
  },
  {
    name: "storing a present key is PRESENT and keeps the bytes, or STORED and replaces them",
    async run(kit) {
      const bench = await kit.setup();
      await bench.mustStore([1]);
      const other = bench.filled([2]);
      const result = await bench.storeBatch({ ...other, keys: bench.keys([1]) });
      assertOutcomes(result, [[Outcome.PRESENT, Outcome.STORED]], "store of a present key");
      const { region, result: loaded } = await bench.load([1]);
      assertOutcomes(loaded, [Outcome.LOADED], "load");
      bench.assertContents(region, [result.outcomes[0] === Outcome.PRESENT ? 1 : 2], "load after the second store");
    },
  },
  {
    name: "a key twice in a store is stored once",
    async run(kit) {
      const bench = await kit.setup();
      const ids = [1, 2, 1, 1, 2];
      const result = await bench.store(ids);
      const either = [Outcome.STORED, Outcome.PRESENT] as const;
      assertOutcomes(
        result,
        ids.map(() => either),
        "store with the same keys",
      );
      await bench.mustLoad([1, 2]);
      const { scan, usage } = bench.backend.manifest.capabilities;
      if (usage) assert.equal((await bench.backend.usage()).blocks, 2, "usage must count two blocks");
      if (scan) assert.equal((await bench.scan()).length, 2, "scan must list two blocks");
    },
  },
  {
    name: "a key twice in a load fills both slots",
    async run(kit) {
      const bench = await kit.setup();
      await bench.mustStore([1, 2]);
      await bench.mustLoad([1, 2, 1, 1]);
    },
  },
  {
    name: "what the caller does with its memory after a call changes nothing that was stored",
    async run(kit) {
      const bench = await kit.setup();
      const batch = bench.filled([1, 2]);
      assertOutcomes(await bench.storeBatch(batch), [Outcome.STORED, Outcome.STORED], "store");
      batch.region.bytes.fill(0);
      batch.keys.bytes.fill(0);
      batch.slots.fill(0);
      await bench.mustLoad([1, 2]);
      await bench.mustMiss([3]);
    },
  },
  {
    name: "calls that cannot be meant are refused and change nothing",
    async run(kit) {
      const bench = await kit.setup();
      await bench.mustStore([1]);
      const good = bench.filled([2]);
      const refused = (batch: typeof good, why: string) =>
        Promise.all([
          assertRejects(() => bench.backend.store(batch), "INVALID_ARGUMENT", `store: ${why}`),
          assertRejects(() => bench.backend.load(batch), "INVALID_ARGUMENT", `load: ${why}`),
        ]);
      const shortKey = packKeys([new Uint8Array(bench.keyBytes === 5 ? 6 : bench.keyBytes - 1)]);
      await refused({ ...good, keys: shortKey }, "keys of another length");
      await refused({ ...good, slots: Uint32Array.of(1) }, "a slot beyond the region");
      await refused({ ...good, slots: Uint32Array.of(0, 0) }, "more slots than keys");
      await refused({ ...good, region: { ...good.region, rows: 2 } }, "a region that is smaller than it says");
      await assertRejects(() => bench.backend.lookup(shortKey), "INVALID_ARGUMENT", "lookup: keys of another length");
      await assertRejects(
        () => bench.backend.lookup(bench.keys([1]), { deadlineMs: -1 }),
        "INVALID_ARGUMENT",
        "deadline",
      );
      await bench.mustMiss([2]);
      await bench.mustLoad([1]);
    },
  },
];

/** A block size as near to the wanted one as the backend takes. */
async function within(
  created: ReturnType<import("../case.js").CaseKit["create"]>,
  blockBytes: number,
): Promise<number> {
  const { blockBytesMin, blockBytesMax } = (await created).backend.manifest.limits;
  return Math.min(Math.max(blockBytes, blockBytesMin), blockBytesMax);
}

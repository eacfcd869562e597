import assert from "node:assert/strict";
import { LookupState } from "@kvferry/core";
import { numbers } from "../bench.js";
import type { ConformanceCase } from "../case.js";

const { HIT, MISS } = LookupState;

/** Lookups: what the scheduler builds its plan on. */
export const lookupCases: readonly ConformanceCase[] = [
  {
    name: "lookup says HIT for what is stored and MISS for what is not, in the order of the keys",
    async run(kit) {
      const bench = await kit.setup();
      assert.deepEqual([...(await bench.lookup([1, 2, 3]))], [MISS, MISS, MISS], "before any store");
      await bench.mustStore([2, 4]);
      assert.deepEqual([...(await bench.lookup([1, 2, 3, 4, 5, 2]))], [MISS, HIT, MISS, HIT, MISS, HIT]);
      await bench.mustLoad([2]);
      assert.deepEqual([...(await bench.lookup([2, 1]))], [HIT, MISS], "after a load");
    },
  },
  {
    name: "lookup answers a large batch",
    async run(kit) {
      const bench = await kit.setup();
      const ids = numbers(Math.min(2000, bench.backend.manifest.limits.batchKeysMax));
      const stored = ids.filter((id) => id % 97 === 0);
      await bench.mustStore(stored);
      assert.deepEqual(
        [...(await bench.lookup(ids))],
        ids.map((id) => (id % 97 === 0 ? HIT : MISS)),
      );
    },
  },
  {
    name: "lookup while a store is under way says anything but nonsense, and HIT once it has ended",
    async run(kit) {
      const bench = await kit.setup();
      const ids = numbers(32);
      const storing = bench.store(ids);
      for (let i = 0; i < 10; i++) await bench.lookup(ids);
      await storing;
      assert.deepEqual(
        [...(await bench.lookup(ids))],
        ids.map(() => HIT),
        "a store has ended: nothing is PENDING",
      );
    },
  },
  {
    name: "lookupNow, where it answers, says what lookup says",
    async run(kit) {
      const bench = await kit.setup();
      const ids = numbers(50);
      await bench.mustStore(ids.filter((id) => id % 3 === 0));
      const expected = [...(await bench.lookup(ids))];
      const now = bench.backend.lookupNow(bench.keys(ids));
      if (now !== undefined) assert.deepEqual([...now], expected);
      const { remove } = bench.backend.manifest.capabilities;
      if (!remove) return;
      await bench.remove([0, 3]);
      const after = bench.backend.lookupNow(bench.keys([0, 3, 6]));
      if (after !== undefined) assert.deepEqual([...after], [MISS, MISS, HIT], "after a removal");
      await bench.backend.close();
      assert.throws(() => bench.backend.lookupNow(bench.keys(ids)), { code: "CLOSED" });
    },
  },
];

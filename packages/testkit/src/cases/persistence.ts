import assert from "node:assert/strict";
import { LookupState, Outcome } from "@kvferry/core";
import { assertOutcomes, freshNamespace, numbers } from "../bench.js";
import type { ConformanceCase } from "../case.js";

const { HIT, MISS } = LookupState;

/** What outlives an instance, and what others see of it. */
export const persistenceCases: readonly ConformanceCase[] = [
  {
    name: "what was stored is there after the backend has been opened again",
    needs: "durable",
    async run(kit) {
      const bench = await kit.setup();
      const ids = numbers(40);
      await bench.mustStore(ids);
      await bench.backend.close();
      const again = await kit.reopened(bench);
      assert.deepEqual(
        [...(await again.lookup([...ids, 99]))],
        [...ids.map(() => HIT), MISS],
        "lookup after opening again",
      );
      await again.mustLoad(ids, "load after opening again");
      assertOutcomes(await again.store([1]), [[Outcome.PRESENT, Outcome.STORED]], "store after opening again");
      await again.mustStore([99]);
      if (again.backend.manifest.capabilities.usage) {
        assert.equal((await again.backend.usage()).blocks, ids.length + 1, "usage must count what was there before");
      }
      if (again.backend.manifest.capabilities.scan) assert.equal((await again.scan()).length, ids.length + 1);
    },
  },
  {
    name: "what was removed stays removed after the backend has been opened again",
    needs: "durable",
    async run(kit) {
      const bench = await kit.setup();
      if (!bench.backend.manifest.capabilities.remove) kit.skip("the manifest says remove: false");
      await bench.mustStore([1, 2, 3]);
      await bench.remove([2]);
      await bench.backend.close();
      const again = await kit.reopened(bench);
      assert.deepEqual([...(await again.lookup([1, 2, 3]))], [HIT, MISS, HIT]);
      await again.mustMiss([2]);
    },
  },
  {
    name: "a block stored through one instance is found by another that is open at the same time",
    needs: "sharedAcrossHosts",
    async run(kit) {
      const bench = await kit.setup();
      const other = await kit.reopened(bench);
      await bench.mustStore([1, 2]);
      await other.mustLoad([1, 2], "load through another instance");
      assert.deepEqual([...(await other.lookup([1, 2, 3]))], [HIT, HIT, MISS], "lookup through another instance");
      await other.mustStore([3]);
      await bench.mustLoad([3], "load of what the other has stored");
      const ids = numbers(8, 100);
      const results = await Promise.all([bench.store(ids), other.store(ids), bench.store(ids), other.store(ids)]);
      for (const result of results) {
        assertOutcomes(
          result,
          ids.map(() => [Outcome.STORED, Outcome.PRESENT]),
          "store by two instances",
        );
      }
      await bench.mustLoad(ids);
      await other.mustLoad(ids);
    },
  },
  {
    name: "namespaces over one storage never see each other's blocks",
    async run(kit) {
      const bench = await kit.setup();
      const ids = numbers(10);
      await bench.mustStore(ids);
      await bench.backend.close();
      const stranger = await kit.reopened(bench, freshNamespace());
      assert.deepEqual(
        [...(await stranger.lookup(ids))],
        ids.map(() => MISS),
        "lookup of another namespace's keys",
      );
      await stranger.mustMiss(ids, "load of another namespace's keys");
      const { scan, usage, remove } = stranger.backend.manifest.capabilities;
      if (scan) assert.deepEqual(await stranger.scan(), [], "scan must not list another namespace's blocks");
      if (usage)
        assert.equal((await stranger.backend.usage()).blocks, 0, "usage must not count another namespace's blocks");
      if (remove) assertOutcomes(await stranger.remove([0]), [Outcome.MISS], "remove of another namespace's key");
      const swapped = { ...stranger.filled(ids.map((id) => id + 500)), keys: stranger.keys(ids) };
      assertOutcomes(
        await stranger.storeBatch(swapped),
        ids.map(() => Outcome.STORED),
        "store under the same keys",
      );
      await stranger.backend.close();
      if (!bench.backend.manifest.capabilities.durable) return;
      const again = await kit.reopened(bench);
      const why = "load after another namespace has used the same keys";
      if (bench.created.oneNamespaceAKey === undefined) await again.mustLoad(ids, why);
      else await again.mustMiss(ids, why);
    },
  },
];

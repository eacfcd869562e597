import assert from "node:assert/strict";
import { Outcome } from "@kvferry/core";
import { assertOutcomes, numbers } from "../bench.js";
import type { ConformanceCase } from "../case.js";

const { LOADED, MISS, PRESENT, STORED } = Outcome;

/** Many calls at once. */
export const concurrencyCases: readonly ConformanceCase[] = [
  {
    name: "many calls at once do not disturb each other",
    async run(kit) {
      const bench = await kit.setup();
      const groups = numbers(24).map((n) => numbers(8, n * 8));
      await Promise.all(groups.map((ids) => bench.mustStore(ids)));
      await Promise.all(
        groups.flatMap((ids, n) => [
          bench.mustLoad(ids),
          bench.mustStore(numbers(4, 10_000 + n * 4)),
          bench.lookup(ids).then((states) => assert.ok(states.every((state) => state === 1))),
          bench.mustMiss(numbers(4, 50_000 + n * 4)),
        ]),
      );
      await bench.mustLoad(groups.flat());
    },
  },
  {
    name: "writers of one key at the same time all succeed, and its bytes are whole",
    async run(kit) {
      const bench = await kit.setup();
      const ids = numbers(8);
      const results = await Promise.all(numbers(12).map(() => bench.store(ids)));
      for (const result of results)
        assertOutcomes(
          result,
          ids.map(() => [STORED, PRESENT]),
          "store by many",
        );
      for (const i of ids)
        assert.ok(
          results.some(({ outcomes }) => outcomes[i] === STORED),
          `nobody has stored key ${i}`,
        );
      await bench.mustLoad(ids);
      if (bench.backend.manifest.capabilities.usage) assert.equal((await bench.backend.usage()).blocks, ids.length);
    },
  },
  {
    name: "a load during the store of its key gives whole bytes or a MISS",
    async run(kit) {
      const bench = await kit.setup();
      for (let round = 0; round < 8; round++) {
        const ids = numbers(16, round * 16);
        const storing = bench.store(ids);
        const loads = await Promise.all(numbers(6).map(() => bench.load(ids)));
        for (const loaded of loads) {
          assertOutcomes(
            loaded.result,
            ids.map(() => [LOADED, MISS]),
            "load during a store",
          );
          bench.assertLoadedContents(loaded, ids, "load during a store");
        }
        assertOutcomes(
          await storing,
          ids.map(() => STORED),
          "store during loads",
        );
      }
    },
  },
  {
    name: "loads and stores of keys that are being removed give whole bytes or a MISS",
    needs: "remove",
    async run(kit) {
      const bench = await kit.setup();
      const ids = numbers(16);
      for (let round = 0; round < 8; round++) {
        await bench.store(ids);
        const [removed, first, stored, second] = await Promise.all([
          bench.remove(ids),
          bench.load(ids),
          bench.store(ids),
          bench.load(ids),
        ]);
        assertOutcomes(
          removed,
          ids.map(() => [Outcome.REMOVED, MISS]),
          "remove",
        );
        assertOutcomes(
          stored,
          ids.map(() => [STORED, PRESENT]),
          "store during a remove",
        );
        for (const loaded of [first, second]) {
          assertOutcomes(
            loaded.result,
            ids.map(() => [LOADED, MISS]),
            "load during a remove",
          );
          bench.assertLoadedContents(loaded, ids, "load during a remove");
        }
      }
      await bench.store(ids);
      await bench.mustLoad(ids);
    },
  },
];

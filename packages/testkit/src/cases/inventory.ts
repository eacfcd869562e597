import assert from "node:assert/strict";
import { keyHex, LookupState, Outcome } from "@kvferry/core";
import { assertOutcomes, assertRejects, type Bench, numbers } from "../bench.js";
import type { ConformanceCase } from "../case.js";

const { MISS, REMOVED } = Outcome;

function hexes(bench: Bench, ids: readonly number[]): string[] {
  return ids.map((id) => bench.hex(id)).sort();
}

/** Scan, usage and remove: what recovery, scrubbing and eviction stand on. */
export const inventoryCases: readonly ConformanceCase[] = [
  {
    name: "scan lists every block once, in pages no longer than asked for",
    needs: "scan",
    async run(kit) {
      const bench = await kit.setup();
      assert.deepEqual(await bench.scan(), [], "scan of an empty storage");
      const ids = numbers(50);
      await bench.mustStore(ids);
      for (const pageEntriesMax of [1, 7, 50, 1000]) {
        const listed: string[] = [];
        for await (const page of bench.backend.scan({ pageEntriesMax })) {
          assert.ok(
            page.length > 0 && page.length <= pageEntriesMax,
            `a page of ${page.length}, asked for ${pageEntriesMax}`,
          );
          for (const { key, bytes, storedAtMs, usedAtMs } of page) {
            listed.push(keyHex(key));
            assert.ok(bytes >= bench.blockBytes, `${bytes} bytes on storage for a block of ${bench.blockBytes}`);
            assert.ok(storedAtMs > 0 && Number.isFinite(storedAtMs), `storedAtMs ${storedAtMs}`);
            assert.ok(usedAtMs >= storedAtMs, `usedAtMs ${usedAtMs} is before storedAtMs ${storedAtMs}`);
          }
        }
        assert.deepEqual(listed.sort(), hexes(bench, ids), `pages of ${pageEntriesMax}`);
      }
    },
  },
  {
    name: "scan lists what stays exactly once while other blocks come and go",
    needs: "scan",
    async run(kit) {
      const bench = await kit.setup();
      const canRemove = bench.backend.manifest.capabilities.remove;
      // in turns, so that those that leave lie before and after those that stay, in whatever order the storage has
      const staying = numbers(40).map((n) => 2 * n + 1);
      const leaving = numbers(40).map((n) => 2 * n);
      await bench.mustStore(numbers(80));
      const listed = new Map<string, number>();
      let step = 0;
      for await (const page of bench.backend.scan({ pageEntriesMax: 4 })) {
        for (const { key } of page) listed.set(keyHex(key), (listed.get(keyHex(key)) ?? 0) + 1);
        if (canRemove && step < leaving.length) await bench.remove([leaving[step] as number]);
        if (step < 60) await bench.store([200 + step]);
        step++;
      }
      for (const id of staying)
        assert.equal(listed.get(bench.hex(id)) ?? 0, 1, `block ${id} stayed and must be listed once`);
      const known = new Set(hexes(bench, [...staying, ...leaving, ...numbers(60, 200)]));
      for (const key of listed.keys()) assert.ok(known.has(key), `scan lists ${key}, which was never stored`);
    },
  },
  {
    name: "a scan that is left early, or aborted, or makes no sense, does no harm",
    needs: "scan",
    async run(kit) {
      const bench = await kit.setup();
      await bench.mustStore(numbers(20));
      for await (const page of bench.backend.scan({ pageEntriesMax: 3 })) {
        assert.equal(page.length <= 3, true);
        break;
      }
      assert.equal(bench.backend.inFlight, 0, "a scan that was left still counts as under way");
      const controller = new AbortController();
      const reading = async () => {
        for await (const _ of bench.backend.scan({ pageEntriesMax: 3, signal: controller.signal })) controller.abort();
      };
      await assertRejects(reading, "ABORTED", "a scan whose signal is aborted");
      await assertRejects(() => bench.backend.scan({ pageEntriesMax: 0 }), "INVALID_ARGUMENT", "pages of no entries");
      assert.equal((await bench.scan()).length, 20);
    },
  },
  {
    name: "usage counts every block, and what scan lists adds up to it",
    needs: "usage",
    async run(kit) {
      const bench = await kit.setup();
      assert.equal((await bench.backend.usage()).blocks, 0, "blocks of an empty storage");
      const ids = numbers(12);
      await bench.mustStore(ids);
      await bench.store([0, 1]);
      await bench.load(ids);
      const { blocks, bytes, capacityBytes } = await bench.backend.usage();
      assert.equal(blocks, ids.length, "usage must count the blocks");
      assert.ok(
        bytes >= ids.length * bench.blockBytes,
        `${bytes} bytes for ${ids.length} blocks of ${bench.blockBytes}`,
      );
      assert.ok(
        capacityBytes === undefined || capacityBytes >= bytes,
        `${bytes} bytes are over the capacity of ${capacityBytes}`,
      );
      const { scan, remove } = bench.backend.manifest.capabilities;
      if (scan) {
        const sum = (await bench.scan()).reduce((total, entry) => total + entry.bytes, 0);
        assert.equal(sum, bytes, "the bytes that scan lists must add up to those of usage");
      }
      if (!remove) return;
      await bench.remove([0, 1, 2, 99]);
      const after = await bench.backend.usage();
      assert.equal(after.blocks, ids.length - 3, "usage after a remove");
      assert.ok(after.bytes < bytes, "the bytes of removed blocks must be free again");
    },
  },
  {
    name: "remove takes away what it names and nothing else",
    needs: "remove",
    async run(kit) {
      const bench = await kit.setup();
      await bench.mustStore([1, 2, 3, 4]);
      assertOutcomes(await bench.remove([2, 9, 4]), [REMOVED, MISS, REMOVED], "remove");
      const states = [...(await bench.lookup([1, 2, 3, 4, 9]))];
      const { HIT, MISS: ABSENT } = LookupState;
      assert.deepEqual(states, [HIT, ABSENT, HIT, ABSENT, ABSENT], "lookup after a remove");
      await bench.mustMiss([2, 4]);
      await bench.mustLoad([1, 3]);
      if (bench.backend.manifest.capabilities.scan) assert.equal((await bench.scan()).length, 2);
      assertOutcomes(await bench.remove([2]), [MISS], "a second remove");
      await bench.mustStore([2]);
      await bench.mustLoad([1, 2, 3]);
      assertOutcomes(await bench.remove([3, 3]), [REMOVED, [REMOVED, MISS]], "a key twice in a remove");
    },
  },
];

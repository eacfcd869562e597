import {
  createMemoryRegion,
  createNamespace,
  type KeyBatch,
  LookupState,
  MemoryBackend,
  Outcome,
  packKeys,
  slotBytes,
  TieredStore,
} from "@kvferry/core";
import { seededRandom } from "@kvferry/testkit";
import { describe, expect, it } from "vitest";
import { HostArena, HostMemoryBackend } from "../src/index.js";

const BLOCK_BYTES = 4096;
const namespace = createNamespace({
  ...{ model: "m", weights: "00".repeat(32), dtype: "d", kvDtype: "d", layout: "l", tokensPerHash: 1 },
  ...{ blocksPerChunk: 1, groups: [{ tokensPerBlock: 1, layers: ["0"] }], parallel: null },
  ...{ engine: "e", engineVersion: "1", formatVersion: 1, tenant: "tiered" },
});

const keysOf = (ids: readonly number[]): KeyBatch =>
  packKeys(ids.map((id) => new Uint8Array(Uint32Array.of(id, 0).buffer)));

function contentOf(id: number): Uint8Array {
  const content = new Uint8Array(BLOCK_BYTES).fill(id * 31 + 7);
  content[0] = id & 0xff;
  content[1] = id >> 8;
  return content;
}

async function store(to: TieredStore, ids: readonly number[]): Promise<Uint8Array> {
  const region = createMemoryRegion(ids.length, BLOCK_BYTES);
  for (const [i, id] of ids.entries()) region.bytes.set(contentOf(id), i * BLOCK_BYTES);
  const result = await to.store({ keys: keysOf(ids), region, slots: Uint32Array.from(ids, (_, i) => i) });
  region.bytes.fill(0xdd); // it is the engine's again
  return result.outcomes;
}

async function load(from: TieredStore, ids: readonly number[]): Promise<Uint8Array> {
  const region = createMemoryRegion(ids.length, BLOCK_BYTES);
  const result = await from.load({ keys: keysOf(ids), region, slots: Uint32Array.from(ids, (_, i) => i) });
  for (const [i, id] of ids.entries()) {
    if (result.outcomes[i] !== Outcome.LOADED) continue;
    expect(Buffer.from(slotBytes(region, i)).equals(contentOf(id)), `bytes of block ${id}`).toBe(true);
  }
  return result.outcomes;
}

describe("host memory as the first tier", () => {
  it("hands what it evicts to the next one: nothing is lost, nothing is wrong, under many calls at once", async () => {
    const arena = new HostArena({ capacityBytes: 24 * BLOCK_BYTES, extentBytes: 4 * BLOCK_BYTES });
    const memory = new HostMemoryBackend({ arena, policy: "lru" });
    const tiered = new TieredStore({
      tiers: [
        { name: "memory", backend: memory, evictions: memory },
        { name: "below", backend: new MemoryBackend(), write: "none" },
      ],
    });
    await tiered.open({ namespace, keyBytes: 8, blockBytes: BLOCK_BYTES });
    const random = seededRandom(11);
    const some = (): number[] => {
      const first = Math.floor(random() * 200);
      return Array.from({ length: 1 + Math.floor(random() * 6) }, (_, i) => first + i);
    };
    const stored = new Set<number>();
    for (let round = 0; round < 60; round++) {
      const calls = Array.from({ length: 6 }, async () => {
        const ids = some();
        if (random() < 0.5) {
          for (const outcome of await load(tiered, ids)) expect([Outcome.LOADED, Outcome.MISS]).toContain(outcome);
          return;
        }
        const outcomes = await store(tiered, ids);
        for (const [i, id] of ids.entries()) if (outcomes[i] === Outcome.STORED) stored.add(id);
      });
      await Promise.all(calls);
      expect((await memory.usage()).bytes).toBeLessThanOrEqual(24 * BLOCK_BYTES);
    }
    await tiered.settled();
    const all = [...stored];
    expect(stored.size).toBeGreaterThan(100);
    expect([...(await tiered.lookup(keysOf(all)))]).toEqual(all.map(() => LookupState.HIT));
    expect([...(await load(tiered, all))]).toEqual(all.map(() => Outcome.LOADED));
    expect(tiered.tierStatus()[1]?.moved["cascade dropped"] ?? 0).toBe(0);
    await tiered.close();
    expect(arena.freeExtents).toBe(arena.extents);
    await arena.close();
  }, 60_000);
});

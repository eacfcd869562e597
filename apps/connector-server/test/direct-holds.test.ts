import { HostArena, HostMemoryBackend } from "@kvferry/backend-host-memory";
import { createMemoryRegion, createNamespace, type KeyBatch, LookupState, Outcome, packKeys } from "@kvferry/core";
import { describe, expect, it, onTestFinished } from "vitest";
import { EngineHolds } from "../src/direct/engine-holds.js";
import { namespace, range } from "./helpers.js";

const BLOCK_BYTES = 4096;
const BLOCKS = 8;

const keysOf = (ids: readonly number[]): KeyBatch => packKeys(ids.map((id) => new Uint8Array(8).fill(id)));

async function arenaWithHolds(): Promise<{ arena: HostArena; memory: HostMemoryBackend; holds: EngineHolds }> {
  const arena = new HostArena({ capacityBytes: BLOCKS * BLOCK_BYTES, extentBytes: BLOCKS * BLOCK_BYTES });
  const memory = new HostMemoryBackend({ arena, policy: "lru" });
  await memory.open({ namespace: createNamespace(namespace), keyBytes: 8, blockBytes: BLOCK_BYTES });
  onTestFinished(async () => {
    await memory.close();
    await arena.close();
  });
  return { arena, memory, holds: new EngineHolds(memory) };
}

async function store(memory: HostMemoryBackend, ids: readonly number[]): Promise<number[]> {
  const region = createMemoryRegion(ids.length, BLOCK_BYTES);
  for (const [i, id] of ids.entries()) region.bytes.fill(id, i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES);
  const outcomes: number[] = [];
  for (const [i, id] of ids.entries()) {
    const batch = { keys: keysOf([id]), region, slots: Uint32Array.of(i) };
    outcomes.push(...(await memory.store(batch)).outcomes);
  }
  return outcomes;
}

const isThere = (memory: HostMemoryBackend, id: number): boolean =>
  memory.lookupNow(keysOf([id]))?.[0] === LookupState.HIT;

describe("what an engine holds", () => {
  it("stays while it is copied, even if it is released in the middle of that", async () => {
    const { arena, memory, holds } = await arenaWithHolds();
    await store(memory, [1]);
    const keys = keysOf([1]);
    holds.add(keys, await memory.hold(keys));
    const use = holds.use(keys);
    holds.release(keys);
    expect(holds.use(keys).offsets[0]).toBe(-1); // for new copies it is not held any more
    await store(memory, range(20, 10));
    const at = use.offsets[0] as number;
    expect(arena.region.bytes.subarray(at, at + BLOCK_BYTES).every((byte) => byte === 1)).toBe(true);
    expect(isThere(memory, 1)).toBe(true);
    use.end();
    use.end();
    expect(holds.blocks).toBe(0);
    await store(memory, range(20, 40));
    expect(isThere(memory, 1)).toBe(false);
  });

  it("is counted by key, and released only when every hold of it has been taken back", async () => {
    const { memory, holds } = await arenaWithHolds();
    await store(memory, [1]);
    const keys = keysOf([1]);
    for (const _ of range(3)) holds.add(keys, await memory.hold(keys));
    expect(holds.blocks).toBe(1);
    holds.release(keysOf([1, 1, 7]));
    await store(memory, range(20, 10));
    expect(isThere(memory, 1)).toBe(true);
    holds.release(keysOf([1, 1, 1]));
    await store(memory, range(20, 40));
    expect(isThere(memory, 1)).toBe(false);
  });

  it("stays in both places when a block has gone and come again: a worker may copy from either", async () => {
    const { arena, memory, holds } = await arenaWithHolds();
    const keys = keysOf([1]);
    await store(memory, [1]);
    const first = await memory.hold(keys);
    holds.add(keys, first);
    await memory.remove(keys);
    await store(memory, [1]);
    const second = await memory.hold(keys);
    holds.add(keys, second);
    expect(second.offsets[0]).not.toBe(first.offsets[0]);
    holds.release(keys);
    await store(memory, range(20, 10));
    for (const { offsets } of [first, second]) {
      const at = offsets[0] as number;
      expect(arena.region.bytes[at + 5]).toBe(1);
    }
    holds.release(keys);
    expect(await store(memory, range(8, 50))).toEqual(new Array(8).fill(Outcome.STORED));
    expect((await memory.usage()).blocks).toBe(BLOCKS); // both places have come back
  });

  it("ends all at once when the engine does", async () => {
    const { memory, holds } = await arenaWithHolds();
    await store(memory, range(8));
    const keys = keysOf(range(8));
    holds.add(keys, await memory.hold(keys));
    expect(await store(memory, [50])).toEqual([Outcome.DROPPED]);
    holds.releaseAll();
    expect(holds.blocks).toBe(0);
    expect(await store(memory, [50])).toEqual([Outcome.STORED]);
  });
});

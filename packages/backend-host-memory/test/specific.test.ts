import { setTimeout as sleep } from "node:timers/promises";
import {
  type BatchResult,
  type BlockBatch,
  createMemoryRegion,
  createNamespace,
  type KeyBatch,
  LookupState,
  type Namespace,
  Outcome,
  packKeys,
  type Region,
  type RemovalReason,
  slotBytes,
} from "@kvferry/core";
import fc from "fast-check";
import { afterEach, describe, expect, it } from "vitest";
import { HostArena, type HostArenaOptions, HostMemoryBackend } from "../src/index.js";

// What only this backend has; what every backend must do is in conformance.test.ts.

const KEY_BYTES = 8;
const PAGE = 4096;

function namespaceOf(tenant: string): Namespace {
  return createNamespace({
    ...{ model: "m", weights: "00".repeat(32), dtype: "d", kvDtype: "d", layout: "l", tokensPerHash: 1 },
    ...{ blocksPerChunk: 1, groups: [{ tokensPerBlock: 1, layers: ["0"] }], parallel: null },
    ...{ engine: "e", engineVersion: "1", formatVersion: 1, tenant },
  });
}

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

function arenaOf(options: HostArenaOptions): HostArena {
  const arena = new HostArena(options);
  closing.push(() => arena.close());
  return arena;
}

/** A namespace over an arena; blocks go by a number. */
class Space {
  readonly backend: HostMemoryBackend;
  readonly blockBytes: number;
  readonly gone: [number, RemovalReason][] = [];

  private constructor(backend: HostMemoryBackend, blockBytes: number) {
    this.backend = backend;
    this.blockBytes = blockBytes;
    backend.onRemoved((keys, reason) =>
      this.gone.push(...idsOf(keys).map((id): [number, RemovalReason] => [id, reason])),
    );
  }

  static async open(arena: HostArena, tenant = "a", blockBytes = PAGE): Promise<Space> {
    const backend = new HostMemoryBackend({ arena, policy: "lru" });
    await backend.open({ namespace: namespaceOf(tenant), keyBytes: KEY_BYTES, blockBytes });
    closing.push(() => backend.close());
    return new Space(backend, blockBytes);
  }

  keys(ids: readonly number[]): KeyBatch {
    return packKeys(
      ids.map((id) => new Uint8Array(Uint32Array.of(id, 0).buffer)),
      KEY_BYTES,
    );
  }

  content(id: number): Uint8Array {
    return new Uint8Array(this.blockBytes)
      .fill((id * 37 + 11) & 0xff)
      .map((byte, i) => (i < 4 ? (id >> (8 * i)) & 0xff : byte));
  }

  batch(ids: readonly number[], region: Region = createMemoryRegion(ids.length, this.blockBytes)): BlockBatch {
    return { keys: this.keys(ids), region, slots: Uint32Array.from(ids, (_, i) => i) };
  }

  async store(ids: readonly number[]): Promise<BatchResult> {
    const batch = this.batch(ids);
    for (const [i, id] of ids.entries()) batch.region.bytes.set(this.content(id), i * this.blockBytes);
    return this.backend.store(batch);
  }

  /** The outcomes; what is LOADED must be right. */
  async load(ids: readonly number[]): Promise<number[]> {
    const batch = this.batch(ids);
    const { outcomes } = await this.backend.load(batch);
    for (const [i, id] of ids.entries()) {
      if (outcomes[i] !== Outcome.LOADED) continue;
      expect(Buffer.from(slotBytes(batch.region, i)).equals(this.content(id)), `bytes of block ${id}`).toBe(true);
    }
    return [...outcomes];
  }

  has(ids: readonly number[]): number[] {
    return ids.filter((_, i) => this.backend.lookupNow(this.keys(ids))?.[i] === LookupState.HIT);
  }
}

function idsOf({ bytes, count, stride }: KeyBatch): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: count }, (_, i) => view.getUint32(i * stride, true));
}

const numbers = (count: number, first = 0): number[] => Array.from({ length: count }, (_, i) => first + i);

describe("host memory", () => {
  it("holds as many blocks as its extents do, and lets the end of the oldest chain go first", async () => {
    const space = await Space.open(arenaOf({ capacityBytes: 16 * PAGE, extentBytes: 4 * PAGE }));
    await space.store(numbers(8));
    await space.store(numbers(8, 100));
    expect((await space.backend.usage()).blocks).toBe(16);
    await space.store(numbers(3, 200));
    expect(await space.backend.usage()).toEqual({ blocks: 16, bytes: 16 * PAGE, capacityBytes: 16 * PAGE });
    expect(space.has(numbers(8))).toEqual(numbers(5));
    expect(space.gone).toEqual([7, 6, 5].map((id) => [id, "evicted"]));
    expect(await space.load([...numbers(5), ...numbers(8, 100), ...numbers(3, 200)])).not.toContain(Outcome.MISS);
  });

  it("drops what there is no room for: a batch longer than the memory", async () => {
    const space = await Space.open(arenaOf({ capacityBytes: 8 * PAGE, extentBytes: 4 * PAGE }));
    const { outcomes } = await space.store(numbers(12));
    expect([...outcomes].filter((each) => each === Outcome.STORED).length).toBe(8);
    expect([...outcomes].filter((each) => each === Outcome.DROPPED).length).toBe(4);
  });

  it("never serves damaged memory: the block is CORRUPT once, and can be stored again", async () => {
    const arena = arenaOf({ capacityBytes: 16 * PAGE, extentBytes: 4 * PAGE });
    const space = await Space.open(arena);
    await space.store([1, 2]);
    const at = Buffer.from(arena.region.bytes.buffer, arena.region.bytes.byteOffset).indexOf(space.content(1));
    expect(at).toBeGreaterThanOrEqual(0);
    arena.region.bytes[at + 100] = (arena.region.bytes[at + 100] as number) ^ 1;
    expect(await space.load([1, 2])).toEqual([Outcome.CORRUPT, Outcome.LOADED]);
    expect(space.gone).toEqual([[1, "corrupt"]]);
    expect(await space.load([1])).toEqual([Outcome.MISS]);
    await space.store([1]);
    expect(await space.load([1, 2])).toEqual([Outcome.LOADED, Outcome.LOADED]);
  });

  it("shares the memory between namespaces: the one whose blocks are used gets what the other leaves idle", async () => {
    const arena = arenaOf({ capacityBytes: 16 * PAGE, extentBytes: 4 * PAGE });
    const idle = await Space.open(arena, "idle");
    const busy = await Space.open(arena, "busy", 2 * PAGE);
    await idle.store(numbers(16));
    expect(arena.freeExtents).toBe(0);
    await sleep(300); // the index counts time in eighths of a second
    for (let round = 0; round < 8; round++) await busy.store([round]);
    expect((await busy.backend.usage()).blocks).toBe(8);
    expect((await idle.backend.usage()).blocks).toBe(0);
    expect(idle.gone.length).toBe(16);
    expect(await busy.load(numbers(8))).not.toContain(Outcome.MISS);
  });

  it("leaves a busy namespace its memory", async () => {
    const arena = arenaOf({ capacityBytes: 16 * PAGE, extentBytes: 4 * PAGE });
    const first = await Space.open(arena, "first");
    await first.store(numbers(16));
    const second = await Space.open(arena, "second");
    await second.store([1000]); // the first extent is given to whoever has none
    const before = (await first.backend.usage()).blocks;
    for (let round = 0; round < 20; round++) {
      first.has(numbers(16));
      await first.load(numbers(16));
      await second.store([2000 + round]);
    }
    expect((await first.backend.usage()).blocks).toBe(before);
    expect((await second.backend.usage()).blocks).toBe(4);
  });

  it("gives the extents of a closed namespace to others", async () => {
    const arena = arenaOf({ capacityBytes: 16 * PAGE, extentBytes: 4 * PAGE });
    const first = await Space.open(arena, "first");
    await first.store(numbers(16));
    await first.backend.close();
    expect(arena.freeExtents).toBe(4);
    const second = await Space.open(arena, "second");
    await second.store(numbers(16));
    expect(await second.load(numbers(16))).not.toContain(Outcome.MISS);
  });

  it("lets a listener copy blocks before they go, and keeps their memory until then", async () => {
    const space = await Space.open(arenaOf({ capacityBytes: 8 * PAGE, extentBytes: 8 * PAGE }));
    await space.store(numbers(8));
    const copy = createMemoryRegion(8, PAGE);
    const copied: number[] = [];
    space.backend.onEvicting(async (leaving) => {
      await sleep(20);
      const slots = Uint32Array.from(numbers(leaving.keys.count));
      const { outcomes } = await leaving.load(slots, copy, slots);
      expect([...outcomes]).toEqual(idsOf(leaving.keys).map(() => Outcome.LOADED));
      copied.push(...idsOf(leaving.keys));
    });
    await Promise.all([space.store(numbers(3, 100)), space.store(numbers(2, 200))]);
    expect(copied.sort()).toEqual([3, 4, 5, 6, 7]);
    expect(space.has([...numbers(8), ...numbers(3, 100), ...numbers(2, 200)]).length).toBe(8);
  });

  it("does not go on with the memory of a block that is removed while it is read", async () => {
    const space = await Space.open(arenaOf({ capacityBytes: 8 * PAGE, extentBytes: 8 * PAGE }));
    for (let round = 0; round < 50; round++) {
      await space.store(numbers(8));
      const loads = numbers(4).map(() => space.load(numbers(8)));
      await space.backend.remove(space.keys(numbers(8)));
      await space.store(numbers(8, 100));
      await Promise.all(loads);
      await space.backend.remove(space.keys(numbers(8, 100)));
    }
    expect((await space.backend.usage()).blocks).toBe(0);
    await space.store(numbers(8)); // all slots have come back
    expect((await space.backend.usage()).blocks).toBe(8);
  });

  it("keeps every block whole, and the bound, whatever namespaces do at the same time", async () => {
    const ids = fc.array(fc.integer({ min: 0, max: 40 }), { minLength: 1, maxLength: 10 });
    const call = fc.record({ space: fc.nat(2), kind: fc.constantFrom("store", "load", "remove", "store"), ids });
    const property = fc.asyncProperty(
      fc.array(fc.array(call, { minLength: 1, maxLength: 6 }), { maxLength: 20 }),
      async (rounds) => {
        const arena = new HostArena({ capacityBytes: 24 * PAGE, extentBytes: 4 * PAGE, engine });
        const spaces = [
          await Space.open(arena, "x"),
          await Space.open(arena, "y", 2 * PAGE),
          await Space.open(arena, "z", 1000),
        ];
        for (const calls of rounds) {
          await Promise.all(
            calls.map(async ({ space, kind, ids }) => {
              const each = spaces[space] as Space;
              if (kind === "store") await each.store(ids);
              else if (kind === "load") await each.load(ids);
              else await each.backend.remove(each.keys(ids));
            }),
          );
          const usages = await Promise.all(spaces.map(({ backend }) => backend.usage()));
          expect(usages.reduce((sum, { bytes }) => sum + bytes, 0)).toBeLessThanOrEqual(24 * PAGE);
          for (const each of spaces) {
            const there = each.has(numbers(41));
            expect((await each.backend.usage()).blocks).toBe(there.length);
            if (there.length > 0) expect(await each.load(there)).toEqual(there.map(() => Outcome.LOADED));
          }
        }
        for (const { backend } of spaces) await backend.close();
        expect(arena.freeExtents).toBe(arena.extents);
        await arena.close();
      },
    );
    const { engine } = arenaOf({ capacityBytes: PAGE });
    await fc.assert(property, { numRuns: process.env.KVFERRY_LONG ? 1000 : 40, seed: 7 });
  }, 120_000);

  it("says which setting is wrong", async () => {
    const field = (name: string) =>
      expect.objectContaining({ code: "CONFIG_INVALID", context: { field: name } }) as never;
    expect(() => new HostArena({ capacityBytes: 100 })).toThrow(field("capacityBytes"));
    expect(() => new HostArena({ capacityBytes: 8 * PAGE, extentBytes: 100 })).toThrow(field("extentBytes"));
    expect(() => new HostArena({ capacityBytes: 8 * PAGE, extentBytes: 16 * PAGE })).toThrow(field("extentBytes"));
    const arena = arenaOf({ capacityBytes: 8 * PAGE, extentBytes: 2 * PAGE });
    expect(() => new HostMemoryBackend({ arena, policy: "best" })).toThrow(field("policy"));
    const backend = new HostMemoryBackend({ arena });
    const open = backend.open({ namespace: namespaceOf(""), keyBytes: KEY_BYTES, blockBytes: 3 * PAGE });
    await expect(open).rejects.toThrow(field("extentBytes"));
    await expect(open).rejects.toThrow(/set extentBytes to 12288 or more/);
  });
});

import { setTimeout as sleep } from "node:timers/promises";
import { createMemoryRegion, Outcome } from "@kvferry/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { HostArena, HostMemoryBackend } from "../src/index.js";
import { arenaOf, idsOf, KEY_BYTES, namespaceOf, numbers, PAGE, Space } from "./space.js";

// What only this backend has; what every backend must do is in conformance.test.ts.

async function run(space: Space, kind: string, ids: readonly number[]): Promise<void> {
  if (kind === "remove") {
    await space.backend.remove(space.keys(ids));
    return;
  }
  const allowed =
    kind === "store" ? [Outcome.STORED, Outcome.PRESENT, Outcome.DROPPED] : [Outcome.LOADED, Outcome.MISS];
  const outcomes = kind === "store" ? (await space.store(ids)).outcomes : await space.load(ids);
  for (const outcome of outcomes) if (!allowed.includes(outcome as never)) space.trouble.push(outcome);
}

async function checkSpaces(spaces: readonly Space[], capacityBytes: number): Promise<void> {
  let bytes = 0;
  for (const space of spaces) {
    const usage = await space.backend.usage();
    bytes += usage.bytes;
    const there = space.has(numbers(41));
    expect(usage.blocks).toBe(there.length);
    if (there.length > 0) expect(await space.load(there)).toEqual(there.map(() => Outcome.LOADED));
    expect(space.trouble, "outcomes that there was no reason for").toEqual([]);
  }
  expect(bytes).toBeLessThanOrEqual(capacityBytes);
}

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
    const blockBytes = 256 * 1024;
    const arena = arenaOf({ capacityBytes: 8 * blockBytes, extentBytes: 8 * blockBytes });
    const space = await Space.open(arena, "a", blockBytes);
    for (let round = 0; round < 20; round++) {
      await space.store(numbers(8));
      const loads = numbers(4).map(() => space.load(numbers(8)));
      const removing = space.backend.remove(space.keys(numbers(8)));
      await Promise.all([removing, space.store(numbers(8, 100))]);
      // what was found when the load began is what it reads
      for (const outcomes of await Promise.all(loads)) expect(outcomes).toEqual(numbers(8).map(() => Outcome.LOADED));
      await space.backend.remove(space.keys(numbers(8, 100)));
    }
    expect((await space.backend.usage()).blocks).toBe(0);
    await space.store(numbers(8)); // all slots have come back
    expect((await space.backend.usage()).blocks).toBe(8);
  }, 60_000);

  it("keeps every block whole, and the bound, whatever namespaces do at the same time", async () => {
    const ids = fc.array(fc.integer({ min: 0, max: 40 }), { minLength: 1, maxLength: 10 });
    const kind = fc.constantFrom("store", "store", "load", "remove");
    const call = fc.record({ space: fc.nat(2), kind, ids });
    const round = fc.record({
      calls: fc.array(call, { minLength: 1, maxLength: 6 }),
      pauseMs: fc.constantFrom(0, 20_000),
    });
    const { engine } = arenaOf({ capacityBytes: PAGE });
    const property = fc.asyncProperty(fc.array(round, { maxLength: 15 }), async (rounds) => {
      const clock = { ms: 1_000_000, nowMs: () => clock.ms, monotonicMs: () => clock.ms };
      const arena = new HostArena({ capacityBytes: 24 * PAGE, extentBytes: 4 * PAGE, engine });
      const spaces = [
        await Space.open(arena, "x", PAGE, clock),
        await Space.open(arena, "y", 3 * PAGE, clock), // which does not fill an extent
        await Space.open(arena, "z", 1000, clock),
      ];
      for (const space of spaces) space.watchEvictions();
      for (const { calls, pauseMs } of rounds) {
        clock.ms += pauseMs;
        await Promise.all(calls.map(({ space, kind, ids }) => run(spaces[space] as Space, kind, ids)));
        await checkSpaces(spaces, 24 * PAGE);
      }
      for (const { backend } of spaces) await backend.close();
      expect(arena.freeExtents).toBe(arena.extents);
      await arena.close();
    });
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

import { errorNumber, Outcome } from "@kvferry/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { HostArena } from "../src/index.js";
import { arenaOf, numbers, PAGE, Space } from "./space.js";

const INVALID = expect.objectContaining({ code: "INVALID_ARGUMENT" }) as Error;

async function hold(space: Space, ids: readonly number[]): Promise<{ outcomes: number[]; offsets: number[] }> {
  const { result, offsets } = await space.backend.hold(space.keys(ids));
  return { outcomes: [...result.outcomes], offsets: [...offsets] };
}

function bytesAt(arena: HostArena, offset: number, blockBytes: number): Buffer {
  return Buffer.from(arena.region.bytes.buffer, arena.region.bytes.byteOffset + offset, blockBytes);
}

function expectBytes(arena: HostArena, space: Space, id: number, offset: number): void {
  expect(bytesAt(arena, offset, space.blockBytes).equals(space.content(id)), `bytes of held block ${id}`).toBe(true);
}

async function small(): Promise<{ arena: HostArena; space: Space }> {
  const arena = arenaOf({ capacityBytes: 8 * PAGE, extentBytes: 4 * PAGE });
  return { arena, space: await Space.open(arena) };
}

const loaded = (count: number): number[] => new Array(count).fill(Outcome.LOADED);

describe("held blocks", () => {
  it("lie where hold says, and stay there while stores ask for their memory", async () => {
    const { arena, space } = await small();
    for (const id of numbers(3)) await space.store([id]); // none follows another: the end of a chain would keep its beginning
    const { outcomes, offsets } = await hold(space, [0, 77, 2]);
    expect(outcomes).toEqual([Outcome.LOADED, Outcome.MISS, Outcome.LOADED]);
    for (let round = 0; round < 20; round++) await space.store(numbers(4, 100 + 4 * round));
    expectBytes(arena, space, 0, offsets[0] as number);
    expectBytes(arena, space, 2, offsets[2] as number);
    expect(space.has([0, 1, 2])).toEqual([0, 2]);
    space.backend.release([offsets[0] as number, offsets[2] as number]);
    for (let round = 0; round < 20; round++) await space.store(numbers(4, 200 + 4 * round));
    expect(space.has([0, 2])).toEqual([]);
  });

  it("may be all that there is: stores are then dropped for want of room, until one is released", async () => {
    const { arena, space } = await small();
    await space.store(numbers(8));
    const { outcomes, offsets } = await hold(space, numbers(8));
    expect(outcomes).toEqual(loaded(8));
    const full = await space.store([100]);
    expect([...full.outcomes, ...full.codes]).toEqual([Outcome.DROPPED, errorNumber("NO_SPACE")]);
    space.backend.release(offsets.slice(7));
    expect([...(await space.store([100])).outcomes]).toEqual([Outcome.STORED]);
    expect(space.has(numbers(8))).toEqual(numbers(7));
    for (const id of numbers(7)) expectBytes(arena, space, id, offsets[id] as number);
  });

  it("are held as often as they were held", async () => {
    const { space } = await small();
    await space.store(numbers(1));
    const { offsets } = await hold(space, [0, 0, 0]);
    expect(new Set(offsets).size).toBe(1);
    space.backend.release(offsets.slice(0, 2));
    await space.store(numbers(8, 100));
    expect(space.has([0])).toEqual([0]);
    space.backend.release(offsets.slice(0, 1));
    await space.store(numbers(8, 200));
    expect(space.has([0])).toEqual([]);
    expect(() => space.backend.release(offsets.slice(0, 1))).toThrow(INVALID);
    expect(() => space.backend.release([1.5])).toThrow(INVALID);
  });

  it.each(["after", "while"])(
    "keep their memory when they are removed %s they are taken, and keep no other",
    async (when) => {
      const { arena, space } = await small();
      await space.store(numbers(1));
      const holding = hold(space, [0]);
      if (when === "after") await holding;
      await space.backend.remove(space.keys([0]));
      const { offsets } = await holding;
      expect(space.has([0])).toEqual([]);
      await space.store([50]); // gets the row in the index that block 0 had
      for (let round = 0; round < 4; round++) await space.store(numbers(8, 100 + 8 * round));
      expect(space.has([50])).toEqual([]);
      expectBytes(arena, space, 0, offsets[0] as number);
      space.backend.release(offsets);
      await space.store(numbers(8, 200));
      expect((await space.backend.usage()).blocks).toBe(8); // the slot has come back
    },
  );

  it("are verified: damaged memory is CORRUPT, announced, not held, and can be stored again", async () => {
    const { arena, space } = await small();
    await space.store([1, 2]);
    const at = Buffer.from(arena.region.bytes.buffer, arena.region.bytes.byteOffset).indexOf(space.content(1));
    arena.region.bytes[at + 100] = (arena.region.bytes[at + 100] as number) ^ 1;
    expect(await hold(space, [1, 2])).toMatchObject({ outcomes: [Outcome.CORRUPT, Outcome.LOADED] });
    expect(space.gone).toEqual([[1, "corrupt"]]);
    expect(await hold(space, [1])).toMatchObject({ outcomes: [Outcome.MISS] });
    await space.store([1]);
    expect(await hold(space, [1])).toMatchObject({ outcomes: [Outcome.LOADED] });
  });

  it("keep their extent from another namespace, however long they were not used", async () => {
    const clock = { ms: 1_000_000, nowMs: () => clock.ms, monotonicMs: () => clock.ms };
    const arena = arenaOf({ capacityBytes: 16 * PAGE, extentBytes: 4 * PAGE });
    const idle = await Space.open(arena, "idle", PAGE, clock);
    const busy = await Space.open(arena, "busy", PAGE, clock);
    await idle.store(numbers(16));
    const { offsets } = await hold(idle, [5]);
    clock.ms += 100_000;
    for (let round = 0; round < 16; round++) await busy.store([round]);
    expect(idle.has(numbers(16))).toContain(5);
    expectBytes(arena, idle, 5, offsets[0] as number);
    idle.backend.release(offsets);
    clock.ms += 100_000;
    for (let round = 0; round < 16; round++) await busy.store([100 + round]);
    expect(idle.has(numbers(16))).toEqual([]);
  });

  it("outlive their backend: nobody gets their memory before they are released", async () => {
    const arena = arenaOf({ capacityBytes: 16 * PAGE, extentBytes: 4 * PAGE });
    const first = await Space.open(arena, "first");
    await first.store(numbers(16));
    const { offsets } = await hold(first, [5]);
    await first.backend.close();
    expect(arena.freeExtents).toBe(3);
    const second = await Space.open(arena, "second");
    await second.store(numbers(16));
    expectBytes(arena, first, 5, offsets[0] as number);
    first.backend.release(offsets);
    expect(arena.freeExtents).toBe(1);
    await expect(first.backend.hold(first.keys([5]))).rejects.toMatchObject({ code: "NOT_OPEN" });
  });

  it("need keys of the right length", async () => {
    const { space } = await small();
    const keys = { bytes: new Uint8Array(12), stride: 12, count: 1 };
    await expect(space.backend.hold(keys)).rejects.toThrow(INVALID);
  });
});

/** What is held of a namespace, as anybody would write it down. */
class Model {
  readonly space: Space;
  readonly arena: HostArena;
  readonly held: { readonly id: number; readonly offset: number; removed: boolean }[] = [];

  constructor(arena: HostArena, space: Space) {
    this.arena = arena;
    this.space = space;
    space.backend.onRemoved((keys, reason) => {
      if (reason !== "evicted") return;
      const view = new DataView(keys.bytes.buffer, keys.bytes.byteOffset, keys.bytes.byteLength);
      for (let i = 0; i < keys.count; i++) {
        const id = view.getUint32(i * keys.stride, true);
        const wasHeld = this.held.some((each) => each.id === id && !each.removed);
        // a block that was removed while it was held may have come again, and may go
        const wasOlder = this.held.some((each) => each.id === id && each.removed);
        if (wasHeld && !wasOlder) space.trouble.push(id);
      }
    });
  }

  async run(kind: string, ids: readonly number[]): Promise<void> {
    const { space } = this;
    switch (kind) {
      case "store":
        this.#expectOnly((await space.store(ids)).outcomes, [Outcome.STORED, Outcome.PRESENT, Outcome.DROPPED]);
        return;
      case "load":
        this.#expectOnly(await space.load(ids), [Outcome.LOADED, Outcome.MISS]);
        return;
      case "remove":
        for (const each of this.held) if (ids.includes(each.id)) each.removed = true;
        await space.backend.remove(space.keys(ids));
        return;
      case "hold": {
        const there = new Set(space.has(ids));
        const { outcomes, offsets } = await hold(space, ids);
        for (const [i, id] of ids.entries()) {
          if (outcomes[i] !== (there.has(id) ? Outcome.LOADED : Outcome.MISS))
            space.trouble.push(outcomes[i] as number);
          if (outcomes[i] !== Outcome.LOADED) continue;
          // it may have been removed while it was verified
          const removed = space.has([id]).length === 0;
          this.held.push({ id, offset: offsets[i] as number, removed });
        }
        return;
      }
      default: {
        const released = this.held.splice(0, ids.length);
        space.backend.release(released.map(({ offset }) => offset));
      }
    }
  }

  checkBytes(): void {
    for (const { id, offset } of this.held) expectBytes(this.arena, this.space, id, offset);
  }

  check(): void {
    this.checkBytes();
    const expected = this.held.filter(({ removed }) => !removed).map(({ id }) => id);
    expect(this.space.has(expected)).toEqual(expected);
    expect(this.space.trouble, "what there was no reason for").toEqual([]);
  }

  #expectOnly(outcomes: Iterable<number>, allowed: readonly number[]): void {
    for (const outcome of outcomes) if (!allowed.includes(outcome)) this.space.trouble.push(outcome);
  }
}

describe("held blocks, whatever namespaces do at the same time", () => {
  it("keep place and bytes; all memory comes back", async () => {
    const ids = fc.array(fc.integer({ min: 0, max: 40 }), { minLength: 1, maxLength: 10 });
    const kind = fc.constantFrom("store", "store", "load", "remove", "hold", "hold", "release");
    const call = fc.record({ space: fc.nat(2), kind, ids });
    const round = fc.record({
      calls: fc.array(call, { minLength: 1, maxLength: 6 }),
      pauseMs: fc.constantFrom(0, 20_000),
    });
    const { engine } = arenaOf({ capacityBytes: PAGE });
    const property = fc.asyncProperty(fc.array(round, { maxLength: 15 }), async (rounds) => {
      const clock = { ms: 1_000_000, nowMs: () => clock.ms, monotonicMs: () => clock.ms };
      const arena = new HostArena({ capacityBytes: 24 * PAGE, extentBytes: 4 * PAGE, engine });
      const models = [
        new Model(arena, await Space.open(arena, "x", PAGE, clock)),
        new Model(arena, await Space.open(arena, "y", 3 * PAGE, clock)), // which does not fill an extent
        new Model(arena, await Space.open(arena, "z", 1000, clock)),
      ];
      for (const { space } of models) space.watchEvictions();
      for (const { calls, pauseMs } of rounds) {
        clock.ms += pauseMs;
        await Promise.all(calls.map(({ space, kind, ids }) => (models[space] as Model).run(kind, ids)));
        for (const model of models) model.check();
      }
      for (const { space } of models) await space.backend.close();
      for (const model of models) model.checkBytes();
      for (const { held, space } of models) space.backend.release(held.map(({ offset }) => offset));
      expect(arena.freeExtents).toBe(arena.extents);
      await arena.close();
    });
    await fc.assert(property, { numRuns: process.env.KVFERRY_LONG ? 1000 : 40, seed: 11 });
  }, 120_000);
});

import { setTimeout as sleep } from "node:timers/promises";
import { type BatchResult, type KeyBatch, keyAt, Outcome, packKeys, setOutcome, uniformResult } from "@kvferry/core";
import type { BlockResult, Device, DeviceCopies } from "@kvferry/native";
import fc from "fast-check";
import { describe, expect, it, onTestFinished } from "vitest";
import { Assemblies } from "../src/direct/assemblies.js";
import { DirectCounts } from "../src/direct/counts.js";
import { DirectStaging } from "../src/direct/staging.js";

const PART_BYTES = 64;
const BLOCK_BYTES = 256;
const ROW_BYTES = 4096;
const KEY_BYTES = 8;
/** Of open tickets. */
const KEYS_MAX = 500;
/** For tests that wait for it; and for those that must not, on a slow machine. */
const SHORT_MS = 60;
const LONG_MS = 60_000;

const keysOf = (ids: readonly number[]): KeyBatch =>
  packKeys(
    ids.map((id) => new Uint8Array(Uint32Array.of(id, 0).buffer)),
    KEY_BYTES,
  );
const idOf = (key: Uint8Array): number => new DataView(key.buffer, key.byteOffset).getUint32(0, true);

/** What a part of a chunk holds. */
const patternOf = (id: number, part: number): number => 1 + ((id * 7 + part * 31) % 255);

/** Staging memory, and what is being done with it: a row must have one use at a time. */
class World {
  readonly staging: DirectStaging;
  readonly counts = new DirectCounts();
  readonly trouble: string[] = [];
  readonly stored = new Map<number, BatchResult>();
  /** All connections have ended: what comes all the same begins anew. */
  isOver = false;
  /** Keys that a tier has. */
  readonly there = new Set<number>();
  readonly assemblies: Assemblies;
  readonly #parts: number;
  readonly #storing = new Set<number>();
  readonly #writing = new Set<string>();

  constructor(parts: number, staging: DirectStaging, deadlineMs: number, storeOutcome: (id: number) => Outcome) {
    this.#parts = parts;
    this.staging = staging;
    this.assemblies = new Assemblies({
      parts,
      partBytes: PART_BYTES,
      rows: this.staging.gathers,
      counts: this.counts,
      deadlineMs,
      keyBytesMax: KEYS_MAX * KEY_BYTES,
      known: async (keys) =>
        Uint8Array.from({ length: keys.count }, (_, i) => Number(this.there.has(this.#id(keys, i)))),
      store: (keys, slots) => this.#store(keys, slots, storeOutcome),
      stored: (ticket, result) => {
        if (this.stored.has(ticket) && !this.isOver) this.trouble.push(`ticket ${ticket} has been answered twice`);
        this.stored.set(ticket, { outcomes: result.outcomes.slice(), codes: result.codes.slice() });
      },
    });
  }

  /** A worker's memory: a page's number is its chunk's id. */
  deviceDouble(part: number, pauseMs: number, fails: (id: number) => boolean): Device {
    return {
      partBytes: PART_BYTES,
      gather: (copies) => this.#gather(part, copies, pauseMs, fails),
      scatter: () => Promise.reject(new Error("not here")),
      stats: () => ({ pinnedBytes: 0, unpinnedBytes: 0, unpinnedReason: "", lastError: "" }),
      close: async () => {},
    };
  }

  end(): void {
    this.isOver = true;
    this.assemblies.endAll();
  }

  /** Once nothing is left to do, nothing may be left over. */
  async expectAtRest(): Promise<void> {
    await this.assemblies.idle();
    expect(this.trouble).toEqual([]);
    expect(this.staging.usedRows).toBe(0);
    expect(this.#storing.size + this.#writing.size).toBe(0);
  }

  #id(keys: KeyBatch, i: number): number {
    return idOf(keyAt(keys, i));
  }

  async #gather(
    part: number,
    { hostOffsets, blocks, signal }: DeviceCopies,
    pauseMs: number,
    fails: (id: number) => boolean,
  ): Promise<BlockResult> {
    if (signal?.aborted) return uniformResult(hostOffsets.length, Outcome.FAILED, "ABORTED");
    const { bytes } = this.staging.gathers.region;
    for (const at of hostOffsets) {
      if (at % ROW_BYTES !== part * PART_BYTES) this.trouble.push(`part ${part} at ${at % ROW_BYTES}`);
      if (this.#writing.has(String(at))) this.trouble.push("two copies into one place");
      if (this.#storing.has(Math.floor(at / ROW_BYTES))) this.trouble.push("a copy into a row that is stored");
      this.#writing.add(String(at));
    }
    const result = uniformResult(hostOffsets.length, Outcome.STORED);
    const fill = (upTo: number): void => {
      for (const [k, at] of hostOffsets.entries())
        bytes.fill(patternOf(blocks[k] as number, part), at, at + PART_BYTES * upTo);
    };
    fill(0.5);
    if (pauseMs > 0) await sleep(pauseMs);
    fill(1);
    for (const [k, at] of hostOffsets.entries()) {
      this.#writing.delete(String(at));
      if (fails(blocks[k] as number)) setOutcome(result, k, Outcome.FAILED, "DEVICE_FAILED");
    }
    return result;
  }

  async #store(keys: KeyBatch, slots: Uint32Array, outcomeOf: (id: number) => Outcome): Promise<BatchResult> {
    for (const slot of slots) {
      if (this.#storing.has(slot)) this.trouble.push("two stores of one row");
      this.#storing.add(slot);
    }
    this.#expectWhole(keys, slots);
    await sleep(1);
    this.#expectWhole(keys, slots);
    for (const slot of slots) this.#storing.delete(slot);
    const result = uniformResult(keys.count, Outcome.STORED);
    for (let i = 0; i < keys.count; i++) setOutcome(result, i, outcomeOf(this.#id(keys, i)));
    return result;
  }

  /** Every part of the chunk, and zeros behind them. */
  #expectWhole(keys: KeyBatch, slots: Uint32Array): void {
    const { bytes } = this.staging.gathers.region;
    for (const [i, slot] of slots.entries()) {
      const expected = Buffer.alloc(BLOCK_BYTES);
      const id = this.#id(keys, i);
      for (let part = 0; part < this.#parts; part++) {
        expected.fill(patternOf(id, part), part * PART_BYTES, (part + 1) * PART_BYTES);
      }
      const found = bytes.subarray(slot * ROW_BYTES, slot * ROW_BYTES + BLOCK_BYTES);
      if (Buffer.compare(found, expected) !== 0) this.trouble.push(`chunk ${id} is not whole`);
    }
  }
}

/** With so many rows for chunks that are put together. */
function stagingOf(rows: number): DirectStaging {
  return new DirectStaging(BLOCK_BYTES, 2 * rows * ROW_BYTES);
}

function worldOf(parts: number, rows: number, deadlineMs: number = LONG_MS): World {
  const world = new World(parts, stagingOf(rows), deadlineMs, () => Outcome.STORED);
  onTestFinished(() => world.staging.close());
  return world;
}

const never = (): boolean => false;
const open = new AbortController().signal;

function gather(
  world: World,
  ticket: number,
  part: number,
  ids: readonly number[],
  {
    pauseMs = 0,
    fails = never,
    signal = open,
  }: { pauseMs?: number; fails?: (id: number) => boolean; signal?: AbortSignal } = {},
): Promise<BatchResult> {
  const pages = { groups: new Uint32Array(ids.length), blocks: Uint32Array.from(ids) };
  const device = world.deviceDouble(part, pauseMs, fails);
  return world.assemblies.gather({ ticket, keys: keysOf(ids), part, device, pages }, signal);
}

const all = (count: number, outcome: number): number[] => new Array(count).fill(outcome);

describe("chunks put together from parts", () => {
  it("are stored when the last part has come, however few rows there are", async () => {
    const world = worldOf(3, 2);
    const ids = Array.from({ length: 20 }, (_, i) => i);
    const parts = await Promise.all([2, 0, 1].map((part) => gather(world, 7, part, ids, { pauseMs: part })));
    for (const { outcomes } of parts) expect([...outcomes]).toEqual(all(20, Outcome.STORED));
    await world.expectAtRest();
    expect([...(world.stored.get(7)?.outcomes ?? [])]).toEqual(all(20, Outcome.STORED));
    expect(world.assemblies.count).toBe(0);
  });

  it("are not copied where a tier has them, for any part", async () => {
    const world = worldOf(2, 4);
    world.there.add(1);
    const first = await gather(world, 1, 0, [0, 1, 2]);
    const second = await gather(world, 1, 1, [0, 1, 2]);
    for (const { outcomes } of [first, second]) {
      expect([...outcomes]).toEqual([Outcome.STORED, Outcome.PRESENT, Outcome.STORED]);
    }
    await world.expectAtRest();
    expect([...(world.stored.get(1)?.outcomes ?? [])]).toEqual([Outcome.STORED, Outcome.PRESENT, Outcome.STORED]);
  });

  it("are dropped where no row becomes free in time; a worker that comes later hears the same", async () => {
    const world = worldOf(2, 2, SHORT_MS);
    const first = await gather(world, 1, 0, [0, 1, 2, 3]);
    expect([...first.outcomes]).toEqual([Outcome.STORED, Outcome.STORED, Outcome.DROPPED, Outcome.DROPPED]);
    const late = await gather(world, 1, 1, [0, 1, 2, 3]);
    expect([...late.outcomes]).toEqual(all(4, Outcome.DROPPED));
    await world.expectAtRest();
    const { FAILED, DROPPED } = Outcome;
    expect([...(world.stored.get(1)?.outcomes ?? [])]).toEqual([FAILED, FAILED, DROPPED, DROPPED]);
    expect(Object.fromEntries(world.counts.dropped)).toEqual({ part_missing: 2, staging: 2 });
  });

  it("have zeros behind their parts, whatever was in the row before: engines of other shapes share it", async () => {
    const three = worldOf(3, 1);
    await Promise.all([0, 1, 2].map((part) => gather(three, 1, part, [5])));
    await three.expectAtRest();
    const one = new World(1, three.staging, LONG_MS, () => Outcome.STORED);
    await gather(one, 1, 0, [6]);
    await one.expectAtRest(); // `store` has looked
    expect([...(one.stored.get(1)?.outcomes ?? [])]).toEqual([Outcome.STORED]);
  });

  it("fail alone when a part of them cannot be copied", async () => {
    const world = worldOf(2, 4);
    await gather(world, 1, 0, [0, 1, 2], { fails: (id) => id === 1 });
    const second = await gather(world, 1, 1, [0, 1, 2]);
    expect([...second.outcomes]).toEqual([Outcome.STORED, Outcome.DROPPED, Outcome.STORED]);
    await world.expectAtRest();
    expect([...(world.stored.get(1)?.outcomes ?? [])]).toEqual([Outcome.STORED, Outcome.FAILED, Outcome.STORED]);
  });

  it("need not wait for the deadline when a worker is cut short", async () => {
    const world = worldOf(2, 2);
    const cut = new AbortController();
    const waiting = gather(world, 1, 0, [0, 1, 2, 3], { signal: cut.signal });
    await sleep(5);
    cut.abort();
    const { outcomes } = await waiting;
    expect([...outcomes]).toEqual([Outcome.STORED, Outcome.STORED, Outcome.DROPPED, Outcome.DROPPED]);
    expect(world.staging.usedRows).toBe(0);
  });

  it("must be the same for all workers, and come once from each", async () => {
    const world = worldOf(2, 4);
    await gather(world, 1, 0, [0, 1]);
    const other = gather(world, 1, 1, [0, 2]);
    await expect(other).rejects.toMatchObject({ code: "INVALID_ARGUMENT", context: { field: "keys" } });
    const twice = gather(world, 1, 0, [0, 1]);
    await expect(twice).rejects.toMatchObject({ code: "INVALID_ARGUMENT", context: { field: "ticket" } });
    await gather(world, 1, 1, [0, 1]);
    await world.expectAtRest();
    await Promise.all([gather(world, 1, 0, [5]), gather(world, 1, 1, [5])]); // the ticket is over: its number is free
    await world.assemblies.idle();
  });

  it("have bounded keys", async () => {
    const world = worldOf(2, 4);
    const ids = Array.from({ length: 200 }, (_, i) => i);
    for (const id of ids) world.there.add(id);
    await gather(world, 1, 0, ids);
    await gather(world, 2, 0, ids);
    await expect(gather(world, 3, 0, ids)).rejects.toMatchObject({ code: "BUSY" });
    await gather(world, 1, 1, ids);
    await gather(world, 3, 0, ids);
    world.assemblies.endAll();
    await world.expectAtRest();
  });

  it("keep their rows to themselves and give them all back, whatever workers do", async () => {
    const ticket = fc.record({
      ids: fc.uniqueArray(fc.nat(30), { minLength: 1, maxLength: 8 }),
      /** Of each part: when it comes, how long its copies take, which chunks fail, when it is cut short. */
      parts: fc.array(
        fc.record({
          comesMs: fc.constantFrom(0, 0, 0, 3, 90),
          pauseMs: fc.constantFrom(0, 0, 2, 10),
          failing: fc.option(fc.nat(30), { freq: 4 }),
          cutMs: fc.option(fc.constantFrom(0, 1, 4), { freq: 6 }),
          stays: fc.boolean(),
        }),
        { minLength: 3, maxLength: 3 },
      ),
    });
    const run = fc.record({
      parts: fc.integer({ min: 1, max: 3 }),
      rows: fc.integer({ min: 1, max: 5 }),
      tickets: fc.array(ticket, { minLength: 1, maxLength: 5 }),
      dropping: fc.nat(30),
      endMs: fc.option(fc.constantFrom(0, 5), { freq: 5 }),
    });
    const property = fc.asyncProperty(run, async ({ parts, rows, tickets, dropping, endMs }) => {
      const world = new World(parts, stagingOf(rows), SHORT_MS, (id) =>
        id === dropping ? Outcome.DROPPED : Outcome.STORED,
      );
      if (endMs !== null) setTimeout(() => world.end(), endMs);
      const calls = tickets.flatMap(({ ids, parts: each }, number) =>
        each.slice(0, parts).map(async ({ comesMs, pauseMs, failing, cutMs, stays }, part) => {
          if (!stays && part > 0) return;
          await sleep(comesMs);
          const cut = new AbortController();
          if (cutMs !== null) setTimeout(() => cut.abort(), cutMs);
          const fails = (id: number): boolean => id === failing;
          const { outcomes } = await gather(world, number, part, ids, { pauseMs, fails, signal: cut.signal });
          if (outcomes.includes(Outcome.LOADED)) world.trouble.push("a gather that loads");
        }),
      );
      await Promise.all(calls);
      world.end();
      await world.expectAtRest();
      for (const [number, { outcomes }] of world.stored) {
        const { ids, parts: each } = tickets[number] as (typeof tickets)[number];
        for (const [i, id] of ids.entries()) {
          const missing = each.slice(1, parts).some(({ stays }) => !stays);
          const failed = each.slice(0, parts).some(({ failing }) => failing === id);
          if (outcomes[i] === Outcome.STORED) expect([missing, failed, id === dropping]).toEqual([false, false, false]);
        }
      }
      world.staging.close();
    });
    await fc.assert(property, { numRuns: process.env.KVFERRY_LONG ? 1000 : 60, seed: 3 });
  }, 300_000);
});

import {
  createMemoryRegion,
  type KeyBatch,
  keyAt,
  type LeavingBlocks,
  LookupState,
  MemoryBackend,
  Outcome,
  slotBytes,
  TieredStore,
  type TierStatus,
} from "@kvferry/core";
import { afterEach, describe, expect, it, vi } from "vitest";
import { NvmeBackend } from "../src/index.js";
import { TOMBSTONES } from "../src/meta-records.js";
import { batchOf, count, keysFrom, load, namespaceOf } from "./blocks.js";
import { fillBlock, KEY_BYTES, numberOf } from "./crash-blocks.mjs";
import { type DoubleDrive, openDouble } from "./double-drives.js";

// What others hear of blocks before a drive lets them go.

const BLOCK_BYTES = 8192;
const ends: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  vi.useRealTimers();
  for (const end of ends.splice(0).reverse()) await end();
});

async function setup(options?: Parameters<typeof openDouble>[0]): Promise<DoubleDrive> {
  const opened = await openDouble(options);
  ends.push(() => opened.close());
  return opened;
}

const numbersOf = (keys: KeyBatch): number[] => Array.from({ length: keys.count }, (_, i) => numberOf(keyAt(keys, i)));
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A promise, and the way to fulfil it. */
function gate(): { readonly opened: Promise<void>; open(): void } {
  let open = (): void => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opened, open: () => open() };
}

/** Stores 1000, 1001, … until `done`, whatever comes of it. */
async function storeUntil({ backend }: DoubleDrive, done: () => boolean, first = 1000): Promise<void> {
  for (let at = first; !done(); at += 4) await backend.store(batchOf(keysFrom(at, 4), BLOCK_BYTES));
}

/** Fills the drive until the segment of the blocks 0 to 7 is given up. What the listener heard of, which goes on once `go` is called. */
async function leaving(test: DoubleDrive): Promise<{ blocks: LeavingBlocks; go(): Promise<void> }> {
  const { opened, open } = gate();
  let blocks: LeavingBlocks | undefined;
  await test.backend.store(batchOf(keysFrom(0, 8), BLOCK_BYTES));
  const stop = test.backend.onEvicting(async (each) => {
    blocks = each;
    await opened;
  });
  await storeUntil(test, () => blocks !== undefined);
  return {
    blocks: blocks as LeavingBlocks,
    async go() {
      stop();
      open();
      const { segmentsEvicted } = test.drive.counters();
      while (test.drive.counters().segmentsEvicted === segmentsEvicted) await turn();
    },
  };
}

/** Loads all of them, and fails where bytes are wrong. */
async function copy({ keys, load: loadThem }: LeavingBlocks): Promise<Uint8Array> {
  const region = createMemoryRegion(keys.count, BLOCK_BYTES);
  const slots = Uint32Array.from({ length: keys.count }, (_, i) => i);
  const { outcomes } = await loadThem(slots, region, slots);
  const expected = new Uint8Array(BLOCK_BYTES);
  for (let i = 0; i < keys.count; i++) {
    if (outcomes[i] !== Outcome.LOADED) continue;
    fillBlock(expected, numberOf(keyAt(keys, i)));
    expect(Buffer.compare(slotBytes(region, i), expected), `bytes of block ${numberOf(keyAt(keys, i))}`).toBe(0);
  }
  return outcomes;
}

/** Flips a bit of a block where it lies. */
function damage({ double: { memory } }: DoubleDrive, number: number): void {
  const payload = new Uint8Array(BLOCK_BYTES);
  fillBlock(payload, number);
  const at = Buffer.from(memory.buffer).indexOf(payload);
  expect(at).toBeGreaterThan(0);
  memory[at + 100] = (memory[at + 100] as number) ^ 1;
}

function removedFrom({ backend }: DoubleDrive): Map<number, string> {
  const removed = new Map<number, string>();
  backend.onRemoved((keys, reason) => {
    for (const number of numbersOf(keys)) removed.set(number, reason);
  });
  return removed;
}

describe("blocks that a drive is about to let go of", () => {
  it("are lost to lookups and loads, whole for the listener, and announced when it is done", async () => {
    const test = await setup();
    const removed = removedFrom(test);
    const { blocks, go } = await leaving(test);
    expect(numbersOf(blocks.keys).slice(0, 8)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    expect(count(await test.backend.lookup(blocks.keys), LookupState.MISS)).toBe(blocks.keys.count);
    expect(count(await load(test.backend, blocks.keys), Outcome.MISS)).toBe(blocks.keys.count);
    expect(count(await copy(blocks), Outcome.LOADED)).toBe(blocks.keys.count);
    expect(removed.size).toBe(0);
    await go();
    expect([...removed.keys()]).toEqual(numbersOf(blocks.keys));
    expect(test.drive.counters().blocksEvicted).toBe(blocks.keys.count);
    expect(count(await copy(blocks), Outcome.MISS)).toBe(blocks.keys.count);
  });

  it("keep their segment as long as the listener reads it, even if it did not wait for that", async () => {
    const test = await setup();
    const { blocks, go } = await leaving(test);
    const [begun, read] = [gate(), gate()];
    test.double.onRead = () => {
      begun.open();
      return read.opened;
    };
    const copying = copy(blocks);
    await begun.opened;
    const going = go();
    for (let turns = 0; turns < 20; turns++) await turn();
    expect(test.drive.counters().segmentsEvicted).toBe(0);
    read.open();
    expect(count(await copying, Outcome.LOADED)).toBe(blocks.keys.count); // the double would throw if the segment had been reused
    await going;
  });

  it("can be stored anew meanwhile, and are not said to have gone", async () => {
    const test = await setup();
    const removed = removedFrom(test);
    const { blocks, go } = await leaving(test);
    const { outcomes } = await test.backend.store(batchOf(keysFrom(2, 3), BLOCK_BYTES));
    expect([...outcomes]).toEqual([Outcome.STORED, Outcome.STORED, Outcome.STORED]);
    expect(count(await copy(blocks), Outcome.LOADED)).toBe(blocks.keys.count);
    await go();
    expect([0, 1, 2, 3, 4, 5].map((n) => removed.has(n))).toEqual([true, true, false, false, false, true]);
    expect(count(await load(test.backend, keysFrom(2, 3)), Outcome.LOADED)).toBe(3);
  });

  it("can be removed meanwhile: nobody gets them any more, now or after a restart", async () => {
    const test = await setup();
    const removed = removedFrom(test);
    const { blocks, go } = await leaving(test);
    const { outcomes } = await test.backend.remove(keysFrom(3, 1));
    expect([...outcomes]).toEqual([Outcome.REMOVED]);
    const copied = await copy(blocks);
    expect([...copied.subarray(2, 5)]).toEqual([Outcome.LOADED, Outcome.MISS, Outcome.LOADED]);
    const [tombstone] = test.double.recordsOf(TOMBSTONES.namespaceDigest, undefined);
    const [record] = test.double.recordsOf(namespaceOf().digest, keyAt(keysFrom(3, 1), 0));
    expect(tombstone?.sequence).toBeGreaterThan(record?.sequence as number);
    await go();
    expect([2, 3, 4].map((n) => removed.has(n))).toEqual([true, false, true]);
    expect([...(await test.backend.remove(keysFrom(3, 1))).outcomes]).toEqual([Outcome.MISS]);
  });

  it("that are damaged are found out, and said to be", async () => {
    const test = await setup();
    const removed = removedFrom(test);
    const { blocks, go } = await leaving(test);
    damage(test, 4);
    const outcomes = await copy(blocks);
    expect([...outcomes.subarray(3, 6)]).toEqual([Outcome.LOADED, Outcome.CORRUPT, Outcome.LOADED]);
    await go();
    expect([3, 4, 5].map((n) => removed.get(n))).toEqual(["evicted", "corrupt", "evicted"]);
    expect(test.drive.counters().blocksCorrupt).toBe(1);
  });

  it("come in parts of 16 MiB, and those whose turn has not come can be loaded still", async () => {
    const mebibyte = 2 ** 20;
    const test = await setup({ segments: 4, segmentBytes: 24 * mebibyte, blockBytes: mebibyte });
    const parts: number[][] = [];
    const { opened, open } = gate();
    test.backend.onEvicting(async ({ keys }) => {
      parts.push(numbersOf(keys));
      await opened;
    });
    for (let at = 0; parts.length === 0; at++) await test.backend.store(batchOf(keysFrom(at, 1), mebibyte));
    expect(parts).toEqual([Array.from({ length: 16 }, (_, i) => i)]);
    expect(count(await load(test.backend, keysFrom(0, 20)), Outcome.LOADED)).toBe(4);
    open();
    while (parts.length === 1) await turn();
    expect(parts[1]?.[0]).toBe(16);
  });
});

describe("a listener", () => {
  it("that throws keeps neither the drive from going on nor others from hearing", async () => {
    const test = await setup();
    let heard = 0;
    test.backend.onEvicting(() => {
      throw new Error("at once");
    });
    test.backend.onEvicting(async () => {
      throw new Error("later");
    });
    test.backend.onEvicting(async ({ keys }) => {
      heard += keys.count;
    });
    await storeUntil(test, () => test.drive.counters().segmentsEvicted >= 4);
    expect(heard).toBe(test.drive.counters().blocksEvicted);
    expect(test.warnings).toEqual([]);
  });

  it("that never ends holds up stores that wait for room for a second, and reads nothing afterwards", async () => {
    const test = await setup();
    let blocks: LeavingBlocks | undefined;
    const stop = test.backend.onEvicting((each) => {
      blocks ??= each;
      return new Promise(() => {});
    });
    await storeUntil(test, () => test.drive.counters().segmentsEvicted > 0);
    stop();
    const leftover = blocks as LeavingBlocks;
    await storeUntil(test, () => test.drive.counters().segmentsEvicted > 6, 2000);
    expect(count(await copy(leftover), Outcome.MISS)).toBe(leftover.keys.count);
    expect(new Set(test.warnings)).toEqual(new Set([expect.stringMatching(/took too long/)]));
  });

  it("that never ends has no more time than that where no store waits", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    const test = await setup();
    const { blocks } = await leaving(test);
    await vi.advanceTimersByTimeAsync(9_900);
    expect(blocks.patience?.aborted).toBe(false);
    await vi.advanceTimersByTimeAsync(200);
    expect(blocks.patience?.aborted).toBe(true);
    expect(test.drive.counters().segmentsEvicted).toBe(0);
    await vi.advanceTimersByTimeAsync(1000);
    while (test.drive.counters().segmentsEvicted === 0) await turn();
    expect(test.drive.counters().segmentsFree).toBe(1);
  });

  it("may take its time until a store waits for the room", async () => {
    const test = await setup();
    const { blocks, go } = await leaving(test);
    expect(blocks.patience?.aborted).toBe(false);
    const more = keysFrom(5000, 40); // more than a segment
    const storing = test.backend.store(batchOf(more, BLOCK_BYTES));
    while (blocks.patience?.aborted === false) await turn();
    await go();
    expect(count((await storing).outcomes, Outcome.STORED)).toBe(40);
  });

  it("leaves stores a segment more to fill meanwhile", async () => {
    const test = await setup({ segments: 10 });
    const { blocks, go } = await leaving(test);
    const more = keysFrom(5000, 40); // more than a segment: it ends although nothing gets free
    expect(count((await test.backend.store(batchOf(more, BLOCK_BYTES))).outcomes, Outcome.STORED)).toBe(40);
    expect(blocks.patience?.aborted).toBe(false);
    expect(test.drive.counters().segmentsFree).toBe(0);
    await go();
  });
});

describe("a drive over a slower tier", () => {
  it("hands on what it lets go, and nothing that is damaged", async () => {
    const test = await setup({ segments: 10 });
    const [over, below] = [new NvmeBackend({ drive: test.drive }), new MemoryBackend()];
    const store = new TieredStore({
      tiers: [
        { name: "drive", backend: over, evictions: over },
        { name: "below", backend: below, write: "none" },
      ],
    });
    await store.open({ namespace: namespaceOf(), keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES });
    ends.push(() => store.close());
    await store.store(batchOf(keysFrom(0, 12), BLOCK_BYTES));
    damage(test, 4);
    const stored = 600;
    for (let at = 12; at < stored; at += 12) {
      await store.store(batchOf(keysFrom(at, 12), BLOCK_BYTES));
      while (test.drive.counters().segmentsFree < 2) await turn(); // stores that outrun it would have it drop blocks
    }
    await store.settled();
    const { moved } = store.tierStatus()[1] as TierStatus;
    const { blocksEvicted, blocksCorrupt } = test.drive.counters();
    expect(blocksEvicted).toBeGreaterThan(300);
    expect(blocksCorrupt).toBe(1);
    expect(moved).toEqual({ "cascade done": blocksEvicted - 1, "cascade dropped": 1 });
    expect(count(await load(below, keysFrom(0, stored)), Outcome.LOADED)).toBe(blocksEvicted - 1);
    const outcomes = await load(store, keysFrom(0, stored));
    expect([...outcomes.keys()].filter((i) => outcomes[i] !== Outcome.LOADED)).toEqual([4]);
    expect(store.missReasons().counts()).toMatchObject({ corrupt: 1 });
  });
});

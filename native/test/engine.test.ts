import { existsSync, readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createFileEngine, createRegion, type FileEngine, type MappedRegion, mapRegionPath } from "../src/index.js";
import {
  ABORTED_CODE,
  BUSY_CODE,
  CLOSED_CODE,
  CORRUPT,
  codeOf,
  count,
  DEADLINE_CODE,
  FAILED,
  keysOf,
  LOADED,
  MISS,
  PRESENT,
  REGION_GONE_CODE,
  REMOVED,
  STORED,
  scratch,
  slotsOf,
  storeOptions,
} from "./helpers.js";

const BLOCK = 16_384;
const ROWS = 64;

let engine: FileEngine;
let region: MappedRegion;

beforeEach(() => {
  engine = createFileEngine({ threads: 4 });
  region = createRegion({ rows: 2 * ROWS, rowBytes: BLOCK });
  for (let i = 0; i < ROWS; i++) region.bytes.fill(i + 1, i * BLOCK, (i + 1) * BLOCK);
});

afterEach(async () => {
  await engine.close();
  region.close();
});

function io(blocks: number, extra: { from?: number; slot?: number; signal?: AbortSignal } = {}) {
  return {
    keys: keysOf(blocks, extra.from),
    memory: region.bytes,
    rowBytes: BLOCK,
    slots: slotsOf(blocks, extra.slot),
    signal: extra.signal,
  };
}

/** The block files below a folder. */
function filesBelow(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

describe("a store in a folder", () => {
  test("gives back what was stored, and says what was there already", async () => {
    const store = await engine.openStore(storeOptions(scratch(), BLOCK));
    const stored = await store.store(io(ROWS));
    expect(count(stored.outcomes, STORED)).toBe(ROWS);
    const loaded = await store.load(io(ROWS, { slot: ROWS }));
    expect(count(loaded.outcomes, LOADED)).toBe(ROWS);
    const half = ROWS * BLOCK;
    expect(Buffer.compare(region.bytes.subarray(0, half), region.bytes.subarray(half))).toBe(0);
    expect(count((await store.store(io(ROWS))).outcomes, PRESENT)).toBe(ROWS);
    expect([...(await store.exists(keysOf(4, ROWS - 2)))]).toEqual([1, 1, 0, 0]);
    expect([...(await store.load(io(2, { from: ROWS - 1 }))).outcomes]).toEqual([LOADED, MISS]);
    expect([...(await store.remove(keysOf(2, ROWS - 1))).outcomes]).toEqual([REMOVED, MISS]);
    expect(store.counters()).toEqual({
      bytesStored: ROWS * BLOCK,
      bytesLoaded: (ROWS + 1) * BLOCK,
      adopted: 0,
      quarantined: 0,
    });
    store.close();
    expect(store.counters().bytesLoaded).toBe((ROWS + 1) * BLOCK);
    await expect(store.exists(keysOf(1))).rejects.toMatchObject({ code: "CLOSED" });
  });

  test("never hands out a damaged block", async () => {
    const folder = scratch();
    const store = await engine.openStore(storeOptions(folder, BLOCK));
    await store.store(io(4));
    const files = filesBelow(join(folder, "blocks"));
    const damaged = readFileSync(files[0]!);
    damaged[77]! ^= 1;
    writeFileSync(files[0]!, damaged);
    truncateSync(files[1]!, 100);
    const loaded = await store.load(io(4, { slot: ROWS }));
    expect(count(loaded.outcomes, CORRUPT)).toBe(2);
    expect(count(loaded.outcomes, LOADED)).toBe(2);
    expect(readdirSync(join(folder, "quarantine")).length).toBe(2);
    expect(store.counters().quarantined).toBe(2);
  });

  test("lists sizes and times", async () => {
    const folder = scratch();
    const store = await engine.openStore({ ...storeOptions(folder, BLOCK), layout: "kvferry" });
    expect(readdirSync(join(folder, "blocks")).length).toBe(256);
    await store.store(io(1));
    const listing = await store.listFolder(join(folder, "blocks/00"));
    expect(listing.names).toEqual([`${Buffer.from(keysOf(1)).toString("hex")}.kvb`]);
    expect(listing.bytes[0]).toBe(BLOCK + 4096);
    expect(Math.abs(listing.modifiedAtMs[0]! - Date.now())).toBeLessThan(60_000);
    expect((await store.listFolder(join(folder, "none"))).names).toEqual([]);
    await expect(store.listFolder("/proc/self/mem")).rejects.toMatchObject({ context: { errno: "ENOTDIR" } });
  });

  test("tells the stamps of folders and the keys that have names in them", async () => {
    const store = await engine.openStore({ ...storeOptions(scratch(), BLOCK), layout: "kvferry" });
    const keys = keysOf(2);
    const folder = Buffer.from(keys.subarray(0, 1)).toString("hex");
    const stamps = (touch = false) => store.stampFolders([folder, "zz/none"], touch);
    const before = await stamps();
    expect(before.length).toBe(12);
    expect([before[0], before[5], before[6], before[11]]).toEqual([0n, 0n, 0n, 2n]);
    expect(await store.keysIn(folder)).toEqual(new Uint8Array(0));
    await store.store(io(2));
    await stamps(true);
    expect((await stamps())[1]).toBeGreaterThan(before[1] as bigint);
    expect((await store.keysIn(folder)).subarray(0, 1)).toEqual(keys.subarray(0, 1));
    await expect(store.stampFolders([folder], false, AbortSignal.abort())).rejects.toMatchObject({ code: "ABORTED" });
    await expect(store.keysIn(folder, AbortSignal.abort())).rejects.toMatchObject({ code: "ABORTED" });
    store.close();
    await expect(async () => store.keysIn(folder)).rejects.toMatchObject({ code: "CLOSED" });
  });

  test("says which folder is at fault when it cannot be opened", async () => {
    const options = { ...storeOptions(scratch(), BLOCK), tmpFolder: "/proc/nothing/here" };
    await expect(engine.openStore(options)).rejects.toMatchObject({
      context: { path: "/proc/nothing/here", errno: "ENOENT" },
    });
    await expect(engine.openStore({ ...options, keyBytes: 4 })).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
  });

  test("refuses memory, slots and keys that do not fit", async () => {
    const store = await engine.openStore(storeOptions(scratch(), BLOCK));
    const invalid = { code: "INVALID_ARGUMENT" };
    await expect(store.load({ ...io(1), slots: slotsOf(1, 2 * ROWS) })).rejects.toMatchObject(invalid);
    await expect(store.load({ ...io(1), slots: slotsOf(2) })).rejects.toMatchObject(invalid);
    await expect(store.load({ ...io(1), keys: new Uint8Array(35) })).rejects.toMatchObject(invalid);
    await expect(store.load({ ...io(1), rowBytes: BLOCK - 1 })).rejects.toMatchObject(invalid);
    await expect(store.load({ ...io(1), memory: region.bytes.subarray(0, BLOCK - 1) })).rejects.toMatchObject(invalid);
    expect((await store.load({ ...io(0) })).outcomes.length).toBe(0);
  });

  test("works with memory that is no region, aligned or not", async () => {
    const store = await engine.openStore(storeOptions(scratch(), BLOCK));
    const memory = new Uint8Array(4 * BLOCK + 3).subarray(3).fill(5);
    const batch = { keys: keysOf(2), memory, rowBytes: BLOCK };
    expect([...(await store.store({ ...batch, slots: slotsOf(2) })).outcomes]).toEqual([STORED, STORED]);
    memory.fill(0);
    expect([...(await store.load({ ...batch, slots: slotsOf(2, 2) })).outcomes]).toEqual([LOADED, LOADED]);
    expect(memory.subarray(2 * BLOCK).every((byte) => byte === 5)).toBe(true);
  });
});

describe("batches", () => {
  test("that do not fit the queue are refused whole", async () => {
    const small = createFileEngine({ threads: 1, queueDepthMax: 8 });
    const store = await small.openStore(storeOptions(scratch(), BLOCK));
    const result = await store.store(io(9));
    expect(count(result.outcomes, FAILED)).toBe(9);
    expect(count(result.codes, BUSY_CODE)).toBe(9);
    expect(count((await store.store(io(8))).outcomes, STORED)).toBe(8);
    await small.close();
  });

  test("end early when they are aborted, and say why", async () => {
    const slow = createFileEngine({ threads: 1 });
    const store = await slow.openStore(storeOptions(scratch(), BLOCK));
    const abort = new AbortController();
    const running = store.store(io(ROWS, { signal: abort.signal }));
    abort.abort();
    const { outcomes, codes } = await running;
    expect(count(codes, ABORTED_CODE)).toBeGreaterThan(0);
    expect(count(codes, ABORTED_CODE)).toBe(count(outcomes, FAILED));
    const before = await store.load(io(2, { signal: abort.signal }));
    expect([...before.codes]).toEqual([ABORTED_CODE, ABORTED_CODE]);
    const late = await store.load(io(1, { signal: AbortSignal.abort(new DOMException("late", "TimeoutError")) }));
    expect([...late.codes]).toEqual([DEADLINE_CODE]);
    await expect(store.exists(keysOf(1), abort.signal)).rejects.toMatchObject({ code: "ABORTED" });
    await slow.close();
  });

  test("that wait when the engine is closed end as CLOSED, and none is lost", async () => {
    const busy = createFileEngine({ threads: 1 });
    const store = await busy.openStore(storeOptions(scratch(), BLOCK));
    const batches = Array.from({ length: 10 }, (_, i) => store.store(io(20, { from: i * 20 })));
    await busy.close();
    const results = await Promise.all(batches);
    const closed = results.reduce((sum, { codes }) => sum + count(codes, CLOSED_CODE), 0);
    const stored = results.reduce((sum, { outcomes }) => sum + count(outcomes, STORED), 0);
    expect(closed + stored).toBe(200);
    expect(closed).toBeGreaterThan(0);
    expect([...(await store.load(io(1))).codes]).toEqual([CLOSED_CODE]);
    await busy.close();
  });

  test("outlive the region's close without touching what is not there", async () => {
    const store = await engine.openStore(storeOptions(scratch(), BLOCK));
    const running = store.store(io(ROWS));
    region.close();
    expect(region.bytes.length).toBe(0);
    expect(count((await running).outcomes, STORED)).toBe(ROWS);
  });

  test("of a region that its owner cut short fail as REGION_GONE, and others go on", async () => {
    const folder = scratch();
    const store = await engine.openStore(storeOptions(folder, BLOCK));
    const path = join(folder, "region");
    writeFileSync(path, Buffer.alloc(8 * BLOCK, 1));
    const other = mapRegionPath(path, { rows: 8, rowBytes: BLOCK });
    expect(other.gone).toBe(false);
    truncateSync(path, 0);
    const result = await store.store({ ...io(8), memory: other.bytes });
    expect([...new Set(result.codes)]).toEqual([REGION_GONE_CODE]);
    expect(other.gone).toBe(true);
    expect(count((await store.store(io(8))).outcomes, STORED)).toBe(8);
    const loaded = await store.load({ ...io(8), memory: other.bytes });
    expect([...new Set(loaded.codes)]).toEqual([REGION_GONE_CODE]);
    other.close();
    expect(other.gone).toBe(true);
  });

  test("let the process end, and only then", async () => {
    expect(engine.stats()).toEqual({ threads: 4, queuedLoads: 0, queuedStores: 0, running: 0, stuckThreads: 0 });
    expect(codeOf(() => createFileEngine({ threads: 0 }))).toBe("INVALID_ARGUMENT");
    expect(existsSync("/proc/self/task")).toBe(true);
  });
});

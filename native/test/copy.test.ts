import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import {
  type BlockCopy,
  crc32c,
  createFileEngine,
  createRegion,
  type FileEngine,
  type MappedRegion,
  mapRegionPath,
} from "../src/index.js";
import {
  ABORTED_CODE,
  BUSY_CODE,
  CORRUPT,
  count,
  FAILED,
  LOADED,
  REGION_GONE_CODE,
  STORED,
  scratch,
  slotsOf,
} from "./helpers.js";

const BLOCK = 20_000;
const ROW = 24_576;
const ROWS = 200;

let engine: FileEngine;
let arena: MappedRegion;
let client: MappedRegion;

beforeEach(() => {
  engine = createFileEngine({ threads: 3 });
  arena = createRegion({ rows: ROWS, rowBytes: BLOCK }, { hugePages: "try" });
  client = createRegion({ rows: ROWS, rowBytes: ROW });
  for (let i = 0; i < client.bytes.length; i += 97) client.bytes[i] = (i * 31) & 255;
});

afterEach(async () => {
  await engine.close();
  arena.close();
  client.close();
});

function storing(blocks: number, checksums: Uint32Array = new Uint32Array(blocks)): BlockCopy {
  return {
    from: client.bytes,
    fromRowBytes: ROW,
    fromSlots: slotsOf(blocks),
    to: arena.bytes,
    toRowBytes: BLOCK,
    toSlots: slotsOf(blocks).reverse(),
    blockBytes: BLOCK,
    checksums,
    mode: "compute",
  };
}

function loading(blocks: number, checksums: Uint32Array): BlockCopy {
  return {
    ...storing(blocks, checksums),
    from: arena.bytes,
    fromRowBytes: BLOCK,
    fromSlots: slotsOf(blocks).reverse(),
    to: client.bytes,
    toRowBytes: ROW,
    toSlots: slotsOf(blocks),
    mode: "verify",
  };
}

test("blocks come back from an arena as they were, and a changed one is CORRUPT", async () => {
  const copy = storing(ROWS);
  const stored = await engine.copyBlocks(copy);
  expect(count(stored.outcomes, STORED)).toBe(ROWS);
  expect(copy.checksums[7]).toBe(crc32c(client.bytes.subarray(7 * ROW, 7 * ROW + BLOCK)));
  const before = Buffer.from(client.bytes.subarray(0, ROWS * ROW));
  for (let row = 0; row < ROWS; row++) client.bytes.fill(0, row * ROW, row * ROW + BLOCK);
  expect(count((await engine.copyBlocks(loading(ROWS, copy.checksums))).outcomes, LOADED)).toBe(ROWS);
  expect(Buffer.compare(before, client.bytes)).toBe(0);
  arena.bytes[5 * BLOCK + 19_999]! ^= 1;
  const { outcomes } = await engine.copyBlocks(loading(ROWS, copy.checksums));
  expect(outcomes[ROWS - 1 - 5]).toBe(CORRUPT);
  expect(count(outcomes, LOADED)).toBe(ROWS - 1);
});

test("what does not fit is refused", async () => {
  const invalid = { code: "INVALID_ARGUMENT" };
  const copy = storing(4);
  await expect(engine.copyBlocks({ ...copy, toSlots: slotsOf(3) })).rejects.toMatchObject(invalid);
  await expect(engine.copyBlocks({ ...copy, toSlots: slotsOf(4, ROWS - 3) })).rejects.toMatchObject(invalid);
  await expect(engine.copyBlocks({ ...copy, fromSlots: slotsOf(4, ROWS) })).rejects.toMatchObject(invalid);
  await expect(engine.copyBlocks({ ...copy, checksums: new Uint32Array(5) })).rejects.toMatchObject(invalid);
  await expect(engine.copyBlocks({ ...copy, blockBytes: BLOCK + 1 })).rejects.toMatchObject(invalid);
  await expect(engine.copyBlocks({ ...copy, blockBytes: 0 })).rejects.toMatchObject(invalid);
  await expect(engine.copyBlocks({ ...copy, mode: "other" as "verify" })).rejects.toMatchObject(invalid);
  expect((await engine.copyBlocks(storing(0))).outcomes.length).toBe(0);
});

test("copies that are aborted or do not fit the queue end without a block lost from sight", async () => {
  const small = createFileEngine({ threads: 1, queueDepthMax: 8 });
  const busy = await small.copyBlocks(storing(ROWS));
  expect(count(busy.codes, BUSY_CODE)).toBe(ROWS);
  await small.close();
  const abort = new AbortController();
  const running = engine.copyBlocks({ ...storing(ROWS), signal: abort.signal });
  abort.abort();
  const { outcomes, codes } = await running;
  expect(count(outcomes, STORED) + count(outcomes, FAILED)).toBe(ROWS);
  expect(count(codes, ABORTED_CODE)).toBe(count(outcomes, FAILED));
  expect([...(await engine.copyBlocks({ ...storing(2), signal: abort.signal })).codes]).toEqual([6, 6]);
});

test("a client that cuts its region short loses its own blocks only", async () => {
  const path = join(scratch(), "region");
  writeFileSync(path, Buffer.alloc(8 * ROW, 1));
  const cut = mapRegionPath(path, { rows: 8, rowBytes: ROW });
  const good = storing(8);
  await engine.copyBlocks(good);
  truncateSync(path, 0);
  expect([...new Set((await engine.copyBlocks({ ...storing(8), from: cut.bytes })).codes)]).toEqual([REGION_GONE_CODE]);
  const into = await engine.copyBlocks({ ...loading(8, good.checksums), to: cut.bytes });
  expect([...new Set(into.codes)]).toEqual([REGION_GONE_CODE]);
  expect(count((await engine.copyBlocks(storing(8))).outcomes, STORED)).toBe(8);
  cut.close();
});

test("a block whose slots are one place is verified where it lies", async () => {
  const checksums = new Uint32Array(ROWS);
  await engine.copyBlocks(storing(ROWS, checksums));
  const slots = slotsOf(ROWS).reverse();
  const inPlace: BlockCopy = {
    ...storing(ROWS, checksums),
    ...{ from: arena.bytes, fromRowBytes: BLOCK, fromSlots: slots, toSlots: slots, mode: "verify" },
  };
  const before = arena.bytes.slice();
  expect(count((await engine.copyBlocks(inPlace)).outcomes, LOADED)).toBe(ROWS);
  expect(Buffer.compare(before, arena.bytes)).toBe(0);
  const at = (slots[7] as number) * BLOCK + BLOCK - 1;
  arena.bytes[at] = (arena.bytes[at] as number) ^ 0x80;
  const { outcomes } = await engine.copyBlocks(inPlace);
  expect(outcomes[7]).toBe(CORRUPT);
  expect(count(outcomes, LOADED)).toBe(ROWS - 1);
});

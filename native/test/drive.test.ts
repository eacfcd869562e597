/** What a segment drive promises to whoever builds a tier on it; the bytes are tested in C++ (test/cpp/segment_*_test.cc). */
import { spawnSync } from "node:child_process";
import {
  closeSync,
  existsSync,
  openSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  createRegion,
  driveOffset4k,
  type MappedRegion,
  mapRegionPath,
  openSegmentDrive,
  payloadOffset,
  recordBytes,
  SEGMENT_DRIVE_HEADER_BYTES,
  SEGMENT_HEADER_BYTES,
  type SegmentDrive,
  type SegmentDriveOptions,
  segmentOf,
  summaryBytes,
} from "../src/index.js";
import {
  ABORTED_CODE,
  addonPath,
  CORRUPT,
  count,
  FAILED,
  keysOf,
  LOADED,
  REGION_GONE_CODE,
  STORED,
  scratch,
  slotsOf,
} from "./helpers.js";

const BLOCK = 16_384;
const ROWS = 64;
const KEY_BYTES = 36;
const SEGMENT = 2 * 1024 * 1024;
const DIGEST = new Uint8Array(32).fill(0xd1);

const opened: SegmentDrive[] = [];
let region: MappedRegion;

beforeEach(() => {
  region = createRegion({ rows: 2 * ROWS, rowBytes: BLOCK });
  for (let i = 0; i < ROWS * BLOCK; i += 61) region.bytes[i] = (i * 7) & 255;
});

afterEach(async () => {
  for (const drive of opened.splice(0)) await drive.close();
  region.close();
});

type Engine = "io_uring" | "threads";

async function open(folder: string, engine: Engine, more: Partial<SegmentDriveOptions> = {}): Promise<SegmentDrive> {
  const drive = await openSegmentDrive({
    path: folder,
    segmentBytes: SEGMENT,
    segments: 8,
    direct: "auto",
    ioUring: engine === "threads" ? "off" : "auto",
    discard: "on",
    fileMode: 0o600,
    ...more,
  });
  opened.push(drive);
  return drive;
}

const namespace = { namespaceDigest: DIGEST, keyBytes: KEY_BYTES, blockBytes: BLOCK };

function blocks(n: number, from = 0, slot = 0) {
  return { ...namespace, keys: keysOf(n, from), memory: region.bytes, rowBytes: BLOCK, slots: slotsOf(n, slot) };
}

function places(segment: number, offset: number, n: number): Uint32Array {
  return Uint32Array.from({ length: n }, (_, i) =>
    driveOffset4k(segment, offset + payloadOffset(i, n, BLOCK, KEY_BYTES), SEGMENT),
  );
}

/** Begins segment 0 and appends one record of `n` blocks. */
async function filled(drive: SegmentDrive, n = 10) {
  await drive.begin({ segment: 0, epoch: 1, sequence: 1 });
  const stored = await drive.append({ ...blocks(n), segment: 0, offset: SEGMENT_HEADER_BYTES, epoch: 1, sequence: 2 });
  expect(count(stored.outcomes, STORED)).toBe(n);
  return { offsets4k: places(0, SEGMENT_HEADER_BYTES, n), checksums: stored.checksums };
}

describe.each<Engine>(["threads", "io_uring"])("a drive with %s", (engine) => {
  test("gives back what was appended, also after it was closed and recovered", async () => {
    const folder = scratch();
    const drive = await open(folder, engine);
    const where = await filled(drive);
    const loaded = await drive.read({ ...blocks(10, 0, ROWS), ...where });
    expect(count(loaded.outcomes, LOADED)).toBe(10);
    const at = ROWS * BLOCK;
    expect(Buffer.compare(region.bytes.subarray(0, 10 * BLOCK), region.bytes.subarray(at, at + 10 * BLOCK))).toBe(0);
    const offset = SEGMENT_HEADER_BYTES + recordBytes(10, BLOCK, KEY_BYTES);
    const second = await drive.append({ ...blocks(3, 50), segment: 0, offset, epoch: 1, sequence: 3 });
    await drive.begin({ segment: 3, epoch: 7, sequence: 4 });
    await drive.seal({ segment: 0, epoch: 1, sequence: 5 });
    expect(statSync(join(folder, "segments.kvs")).size).toBe(SEGMENT_DRIVE_HEADER_BYTES + 8 * SEGMENT);
    await drive.close();

    const again = await open(folder, engine);
    const found = await again.recover();
    expect([...found.segments.index]).toEqual([0, 3]);
    expect([...found.segments.epoch]).toEqual([1, 7]);
    expect([...found.segments.sealed]).toEqual([1, 0]);
    expect([...found.segments.records]).toEqual([2, 0]);
    expect([...found.segments.blocks]).toEqual([13, 0]);
    expect([...found.segments.keyBytes]).toEqual([13 * KEY_BYTES, 0]);
    expect([...found.segments.usedBytes]).toEqual([offset + recordBytes(3, BLOCK, KEY_BYTES), SEGMENT_HEADER_BYTES]);
    expect(found.damagedSegments + found.damagedRecords).toBe(0);
    expect(found.namespaces.length).toBe(1);
    const [entries] = found.namespaces;
    expect(entries).toMatchObject(namespace);
    expect(entries!.keys).toEqual(new Uint8Array([...keysOf(10), ...keysOf(3, 50)]));
    expect([...entries!.offsets4k]).toEqual([...where.offsets4k, ...places(0, offset, 3)]);
    expect([...entries!.checksums]).toEqual([...where.checksums, ...second.checksums]);
    expect([...entries!.sequences]).toEqual([...new Array(10).fill(2), 3, 3, 3]);
    expect([...entries!.offsets4k].every((place) => segmentOf(place, SEGMENT) === 0)).toBe(true);
    region.bytes.fill(0, at);
    const { keys, offsets4k, checksums } = entries!;
    const read = await again.read({ ...blocks(13, 0, ROWS), keys, offsets4k, checksums });
    expect(count(read.outcomes, LOADED)).toBe(13);
    expect(again.counters()).toMatchObject({ bytesLoaded: 13 * BLOCK, bytesStored: 0, corruptBlocks: 0 });
  });

  test("never hands out a block with another key, namespace, place or byte", async () => {
    const folder = scratch();
    const drive = await open(folder, engine);
    const where = await filled(drive);
    const read = (change: object) => drive.read({ ...blocks(10, 0, ROWS), ...where, ...change });
    expect(count((await read({ keys: keysOf(10, 1) })).outcomes, CORRUPT)).toBe(10);
    expect(count((await read({ namespaceDigest: new Uint8Array(32) })).outcomes, CORRUPT)).toBe(10);
    const moved = where.offsets4k.map((place) => place + BLOCK / 4096);
    expect(count((await read({ offsets4k: moved })).outcomes, CORRUPT)).toBe(10);
    const file = openSync(join(folder, "segments.kvs"), "r+");
    writeSync(file, Buffer.from([region.bytes[7]! ^ 1]), 0, 1, where.offsets4k[4]! * 4096 + 7);
    closeSync(file);
    const { outcomes } = await read({});
    expect(outcomes[4]).toBe(CORRUPT);
    expect(count(outcomes, LOADED)).toBe(9);
    expect(drive.counters().corruptBlocks).toBe(31);
  });

  test("refuses what would overlap, not fit, or belong to another life", async () => {
    const drive = await open(scratch(), engine);
    const invalid = { code: "INVALID_ARGUMENT" };
    const append = (more: object) =>
      drive.append({ ...blocks(10), segment: 0, offset: SEGMENT_HEADER_BYTES, epoch: 1, sequence: 2, ...more });
    await expect(append({})).rejects.toMatchObject(invalid);
    const where = await filled(drive);
    await expect(append({})).rejects.toMatchObject(invalid);
    await expect(append({ offset: 1_048_577 })).rejects.toMatchObject(invalid);
    await expect(append({ offset: 1_048_576, epoch: 2 })).rejects.toMatchObject(invalid);
    await expect(append({ offset: 1_048_576, segment: 8 })).rejects.toMatchObject(invalid);
    const last = SEGMENT - summaryBytes(2, 20, 20 * KEY_BYTES) - recordBytes(10, BLOCK, KEY_BYTES);
    await expect(append({ offset: last + 4096 })).rejects.toMatchObject(invalid);
    expect(count((await append({ offset: last })).outcomes, STORED)).toBe(10);
    await expect(drive.begin({ segment: 0, epoch: 1, sequence: 9 })).rejects.toMatchObject(invalid);
    await expect(drive.seal({ segment: 1, epoch: 1, sequence: 9 })).rejects.toMatchObject(invalid);
    await drive.seal({ segment: 0, epoch: 1, sequence: 9 });
    await expect(append({ offset: SEGMENT })).rejects.toMatchObject(invalid);
    const beyond = { ...blocks(10), ...where, offsets4k: where.offsets4k.map(() => 0xffff_ffff) };
    await expect(drive.read(beyond)).rejects.toMatchObject(invalid);
    await expect(drive.read({ ...blocks(10), ...where, keyBytes: 4 })).rejects.toMatchObject(invalid);
    expect((await drive.read({ ...blocks(0), offsets4k: slotsOf(0), checksums: slotsOf(0) })).outcomes.length).toBe(0);
  });

  test("forgets a segment's earlier lives", async () => {
    const folder = scratch();
    const drive = await open(folder, engine);
    await filled(drive);
    await drive.seal({ segment: 0, epoch: 1, sequence: 3 });
    await drive.begin({ segment: 0, epoch: 2, sequence: 4 });
    await drive.begin({ segment: 1, epoch: 1, sequence: 5 });
    await drive.append({ ...blocks(2), segment: 1, offset: SEGMENT_HEADER_BYTES, epoch: 1, sequence: 6 });
    await drive.discard(1);
    await drive.close();
    const again = await open(folder, engine);
    const found = await again.recover();
    expect([...found.segments.index]).toEqual([0]);
    expect([...found.segments.epoch]).toEqual([2]);
    expect(found.namespaces).toEqual([]);
    await expect(again.recover()).rejects.toMatchObject({ code: "BUSY" });
    const reused = { ...blocks(5), segment: 0, offset: found.segments.usedBytes[0]!, epoch: 2, sequence: 7 };
    expect(count((await again.append(reused)).outcomes, STORED)).toBe(5);
  });

  test("works with memory that O_DIRECT cannot take, and blocks that are not whole pages", async () => {
    const drive = await open(scratch(), engine);
    await drive.begin({ segment: 0, epoch: 1, sequence: 1 });
    let offset = SEGMENT_HEADER_BYTES;
    for (const blockBytes of [BLOCK, 1, 5000]) {
      const memory = new Uint8Array(8 * BLOCK + 3).subarray(3).map((_, i) => i % 251);
      const batch = { ...namespace, blockBytes, keys: keysOf(4), memory, rowBytes: BLOCK };
      const stored = await drive.append({
        ...batch,
        slots: slotsOf(4),
        segment: 0,
        offset,
        epoch: 1,
        sequence: offset,
      });
      expect(count(stored.outcomes, STORED)).toBe(4);
      const offsets4k = Uint32Array.from({ length: 4 }, (_, i) =>
        driveOffset4k(0, offset + payloadOffset(i, 4, blockBytes, KEY_BYTES), SEGMENT),
      );
      const loaded = await drive.read({ ...batch, slots: slotsOf(4, 4), offsets4k, checksums: stored.checksums });
      expect(count(loaded.outcomes, LOADED)).toBe(4);
      for (let i = 0; i < 4; i++) {
        const from = memory.subarray(i * BLOCK, i * BLOCK + blockBytes);
        expect(Buffer.compare(from, memory.subarray((4 + i) * BLOCK, (4 + i) * BLOCK + blockBytes))).toBe(0);
      }
      offset += recordBytes(4, blockBytes, KEY_BYTES);
    }
  });

  test("ends batches that are aborted, a record as a whole", async () => {
    const drive = await open(scratch(), engine, { queueDepth: 4 });
    await drive.begin({ segment: 0, epoch: 1, sequence: 1 });
    const abort = new AbortController();
    const appends = Array.from({ length: 10 }, (_, i) => {
      const offset = SEGMENT_HEADER_BYTES + i * recordBytes(8, BLOCK, KEY_BYTES);
      return drive.append({ ...blocks(8, 8 * i), segment: 0, offset, epoch: 1, sequence: i, signal: abort.signal });
    });
    abort.abort();
    for (const { outcomes, codes } of await Promise.all(appends)) {
      expect(new Set(outcomes).size).toBe(1);
      expect(codes[0]).toBe(outcomes[0] === FAILED ? ABORTED_CODE : 0);
    }
    const late = { ...blocks(2), offsets4k: slotsOf(2), checksums: slotsOf(2), signal: abort.signal };
    expect([...(await drive.read(late)).codes]).toEqual([ABORTED_CODE, ABORTED_CODE]);
  });

  test("a client that cuts its region short loses its own blocks only", async () => {
    const folder = scratch();
    const drive = await open(folder, engine);
    const where = await filled(drive);
    const path = join(folder, "region");
    writeFileSync(path, Buffer.alloc(16 * BLOCK, 1));
    const cut = mapRegionPath(path, { rows: 16, rowBytes: BLOCK });
    truncateSync(path, 0);
    const place = { segment: 0, offset: 1_048_576, epoch: 1, sequence: 9 };
    const stored = await drive.append({ ...blocks(10), memory: cut.bytes, ...place });
    expect([...new Set(stored.codes)]).toEqual([REGION_GONE_CODE]);
    const loaded = await drive.read({ ...blocks(10), memory: cut.bytes, ...where });
    expect([...new Set(loaded.codes)]).toEqual([REGION_GONE_CODE]);
    expect(count((await drive.read({ ...blocks(10, 0, ROWS), ...where })).outcomes, LOADED)).toBe(10);
    cut.close();
  });

  test("outlives the region's close, and ends what waits when it is closed", async () => {
    const drive = await open(scratch(), engine);
    const where = await filled(drive, ROWS);
    const running = drive.read({ ...blocks(ROWS, 0, ROWS), ...where });
    region.close();
    expect(count((await running).outcomes, LOADED)).toBe(ROWS);
    await drive.close();
    await drive.close();
    await expect(drive.discard(1)).rejects.toMatchObject({ code: "CLOSED" });
    expect(drive.counters().bytesStored).toBe(ROWS * BLOCK);
  });
});

describe("opening a drive", () => {
  test("keeps a second one out until it is closed, whichever process asks", async () => {
    const folder = scratch();
    const drive = await open(folder, "threads");
    await expect(open(folder, "threads")).rejects.toMatchObject({
      code: "BUSY",
      context: { path: join(folder, "segments.kvs") },
    });
    const script = `
      const native = require(${JSON.stringify(addonPath)});
      native.openSegmentDrive({ path: ${JSON.stringify(folder)}, segmentBytes: ${SEGMENT}, segments: 8, direct: "auto",
        ioUring: "off", discard: "on", queueDepth: 4, fileMode: 0o600 }).then(() => console.log("open"), (error) => console.log(error.code));`;
    const other = (): string => spawnSync(process.execPath, ["-e", script], { encoding: "utf8" }).stdout.trim();
    expect(other()).toBe("BUSY");
    await drive.close();
    expect(other()).toBe("open");
    await open(folder, "threads");
  });

  test("never writes over what is not a drive, and says what to do", async () => {
    const folder = scratch();
    const path = join(folder, "segments.kvs");
    writeFileSync(path, Buffer.alloc(100_000, 7));
    await expect(open(folder, "threads")).rejects.toMatchObject({ code: "CONFIG_INVALID", context: { path } });
    expect(readFileSync(path).every((byte) => byte === 7)).toBe(true);
    await expect(open(path, "threads")).rejects.toMatchObject({ code: "CONFIG_INVALID" });
    await expect(open(join(folder, "none"), "threads")).rejects.toMatchObject({ context: { errno: "ENOENT" } });
    await expect(open("relative", "threads")).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    expect(existsSync(join(folder, "none"))).toBe(false);
  });

  test("grows and shrinks a drive, but keeps its segment size", async () => {
    const folder = scratch();
    const drive = await open(folder, "threads");
    const where = await filled(drive);
    await drive.close();
    await expect(open(folder, "threads", { segmentBytes: 2 * SEGMENT })).rejects.toMatchObject({
      code: "CONFIG_INVALID",
    });
    for (const segments of [12, 2]) {
      const again = await open(folder, "threads", { segments });
      expect(statSync(join(folder, "segments.kvs")).size).toBe(SEGMENT_DRIVE_HEADER_BYTES + segments * SEGMENT);
      expect((await again.recover()).namespaces[0]!.offsets4k).toEqual(where.offsets4k);
      await again.close();
    }
  });
});

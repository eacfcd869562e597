// Measures what the host memory and NVMe tiers stand on, and prints JSON: copies between regions beside memcpy on one thread,
// appends and reads of a segment drive on both engines, and recovery. Only ratios within one run count on a shared machine.
// Usage: node native/scripts/bench-tiers.mjs [--folder DIR] [--rounds N] [--sizes 65536,…] [--parts copy,drive,recover]
//        [--blocks N, to recover] (after `npm run build -w @kvferry/native`)
import { mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import {
  createFileEngine,
  createRegion,
  driveOffset4k,
  openSegmentDrive,
  payloadOffset,
  recordBytes,
  SEGMENT_HEADER_BYTES,
  summaryBytes,
} from "../dist/index.js";

const MiB = 1024 * 1024;
const KEY_BYTES = 36;
const SEGMENT_BYTES = 64 * MiB;
const SEGMENTS = 8;
/** Batches at a time, as an engine keeps them. */
const BATCHES = 8;
const { values } = parseArgs({
  options: {
    folder: { type: "string", default: tmpdir() },
    rounds: { type: "string", default: "3" },
    sizes: { type: "string", default: "65536,1048576" },
    parts: { type: "string", default: "copy,drive,recover" },
    blocks: { type: "string", default: "1000000" },
  },
});
const rounds = Number(values.rounds);
const sizes = values.sizes.split(",").map(Number);
const digest = new Uint8Array(32);

const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
const GBps = (bytes, seconds) => Number((bytes / seconds / 1e9).toFixed(2));
const counting = (count, from = 0) => Uint32Array.from({ length: count }, (_, i) => from + i);

async function timed(action) {
  const start = performance.now();
  await action();
  return (performance.now() - start) / 1000;
}

function expectAll({ outcomes }, outcome) {
  const wrong = outcomes.find((each) => each !== outcome);
  if (wrong !== undefined) throw new Error(`a block ended with outcome ${wrong}, not ${outcome}`);
}

function filledRegion(bytes, options) {
  const region = createRegion({ rows: 1, rowBytes: bytes }, options);
  for (let i = 0; i < bytes; i += 8) region.bytes[i] = i >> 3;
  return region;
}

async function benchCopy(blockBytes) {
  const bytes = 256 * MiB;
  const [from, to] = [filledRegion(bytes), filledRegion(bytes, { hugePages: "try" })];
  const count = bytes / blockBytes;
  const slots = counting(count);
  const checksums = new Uint32Array(count);
  const shared = {
    fromRowBytes: blockBytes,
    fromSlots: slots,
    toRowBytes: blockBytes,
    toSlots: slots,
    blockBytes,
    checksums,
  };
  const result = { blockBytes };
  for (const threads of [1, 2]) {
    const engine = createFileEngine({ threads });
    const seconds = { memcpy: [], compute: [], verify: [] };
    for (let round = 0; round < rounds; round++) {
      seconds.memcpy.push(await timed(async () => to.bytes.set(from.bytes)));
      const store = { ...shared, from: from.bytes, to: to.bytes, mode: "compute", priority: "load" };
      seconds.compute.push(await timed(async () => expectAll(await engine.copyBlocks(store), 1)));
      const load = { ...shared, from: to.bytes, to: from.bytes, mode: "verify" };
      seconds.verify.push(await timed(async () => expectAll(await engine.copyBlocks(load), 4)));
    }
    result.memcpyGBps = GBps(bytes, median(seconds.memcpy));
    for (const mode of ["compute", "verify"]) {
      result[`${mode}${threads}GBps`] = GBps(bytes, median(seconds[mode]));
      result[`${mode}${threads}OfMemcpy`] = Number((median(seconds.memcpy) / median(seconds[mode])).toFixed(2));
    }
    await engine.close();
  }
  from.close();
  to.close();
  return result;
}

/** Records of `blocks` blocks that fill all segments. */
function plan(blocks, blockBytes, segments, segmentBytes) {
  const each = recordBytes(blocks, blockBytes, KEY_BYTES);
  const records = [];
  for (let segment = 0; segment < segments; segment++) {
    let offset = SEGMENT_HEADER_BYTES;
    for (let n = 1; offset + each + summaryBytes(n, n * blocks, n * blocks * KEY_BYTES) <= segmentBytes; n++) {
      records.push({ segment, offset });
      offset += each;
    }
  }
  return records;
}

/** Runs `action` for all records, `BATCHES` at a time. */
async function forAll(records, action) {
  let next = 0;
  const worker = async () => {
    for (let i = next++; i < records.length; i = next++) await action(records[i], i);
  };
  await Promise.all(Array.from({ length: BATCHES }, worker));
}

async function benchDrive(blockBytes, ioUring) {
  const path = mkdtempSync(join(values.folder, "kvferry-bench-"));
  const drive = await openSegmentDrive({
    path,
    segmentBytes: SEGMENT_BYTES,
    segments: SEGMENTS,
    direct: "auto",
    ioUring,
    discard: "auto",
    fileMode: 0o600,
  });
  const region = filledRegion(256 * MiB);
  const blocks = Math.max(1, Math.min(64, (8 * MiB) / blockBytes));
  const rows = region.bytes.length / blockBytes;
  const records = plan(blocks, blockBytes, SEGMENTS, SEGMENT_BYTES);
  const io = (i) => ({
    namespaceDigest: digest,
    keyBytes: KEY_BYTES,
    blockBytes,
    keys: new Uint8Array(blocks * KEY_BYTES),
    memory: region.bytes,
    rowBytes: blockBytes,
    slots: counting(blocks).map((n) => (i * blocks + n) % rows),
  });
  const bytes = records.length * blocks * blockBytes;
  const seconds = { append: [], read: [] };
  try {
    for (let epoch = 1; epoch <= rounds; epoch++) {
      for (let segment = 0; segment < SEGMENTS; segment++) await drive.begin({ segment, epoch, sequence: epoch });
      const append = async (record, i) => {
        const stored = await drive.append({ ...io(i), ...record, epoch, sequence: i });
        expectAll(stored, 1);
        record.checksums = stored.checksums;
        record.offsets4k = counting(blocks).map((n) =>
          driveOffset4k(record.segment, record.offset + payloadOffset(n, blocks, blockBytes, KEY_BYTES), SEGMENT_BYTES),
        );
      };
      seconds.append.push(await timed(() => forAll(records, append)));
      const read = async ({ offsets4k, checksums }, i) =>
        expectAll(await drive.read({ ...io(i), offsets4k, checksums }), 4);
      seconds.read.push(await timed(() => forAll(records, read)));
    }
  } finally {
    await drive.close();
    region.close();
    rmSync(path, { recursive: true, force: true });
  }
  const { engine, direct } = drive;
  return {
    blockBytes,
    engine,
    direct,
    appendGBps: GBps(bytes, median(seconds.append)),
    readGBps: GBps(bytes, median(seconds.read)),
  };
}

/** As many sealed segments and blocks a segment as a drive of 64 KiB blocks has; the blocks are small, their number counts. */
async function benchRecover(blockCount) {
  const path = mkdtempSync(join(values.folder, "kvferry-bench-"));
  const blocks = 64;
  const segmentBytes = 5 * MiB;
  const perSegment = plan(blocks, 4096, 1, segmentBytes).length * blocks;
  const segments = Math.ceil(blockCount / perSegment);
  const options = { path, segmentBytes, segments, direct: "auto", ioUring: "auto", discard: "auto", fileMode: 0o600 };
  const region = filledRegion(MiB);
  let drive = await openSegmentDrive(options);
  try {
    for (let segment = 0; segment < segments; segment++) {
      await drive.begin({ segment, epoch: 1, sequence: segment });
    }
    await forAll(plan(blocks, 4096, segments, segmentBytes), async (record, i) => {
      const keys = Buffer.alloc(blocks * KEY_BYTES, i & 255);
      for (let n = 0; n < blocks; n++) keys.writeUInt32LE(i * blocks + n, n * KEY_BYTES);
      const memory = { memory: region.bytes, rowBytes: 4096, slots: counting(blocks) };
      const identity = { namespaceDigest: digest, keyBytes: KEY_BYTES, blockBytes: 4096, keys };
      expectAll(await drive.append({ ...identity, ...memory, ...record, epoch: 1, sequence: segments + i }), 1);
    });
    for (let segment = 0; segment < segments; segment++) await drive.seal({ segment, epoch: 1, sequence: segment });
    const seconds = [];
    let found = 0;
    for (let round = 0; round < rounds; round++) {
      await drive.close();
      drive = await openSegmentDrive(options);
      seconds.push(
        await timed(async () => {
          found = (await drive.recover()).namespaces[0].checksums.length;
        }),
      );
    }
    return { blocks: found, segments, seconds: Number(median(seconds).toFixed(3)) };
  } finally {
    await drive.close();
    region.close();
    rmSync(path, { recursive: true, force: true });
  }
}

const parts = values.parts.split(",");
const report = { node: process.version, cores: availableParallelism(), rounds, copy: [], drive: [] };
if (parts.includes("copy")) for (const size of sizes) report.copy.push(await benchCopy(size));
if (parts.includes("drive")) {
  for (const size of sizes) {
    for (const ioUring of ["auto", "off"]) report.drive.push(await benchDrive(size, ioUring));
  }
}
if (parts.includes("recover")) report.recover = await benchRecover(Number(values.blocks));
console.log(JSON.stringify(report, null, 2));

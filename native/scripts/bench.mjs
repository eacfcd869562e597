// Measures the file engine and prints JSON: store and load in GB/s and blocks/s, by block size, O_DIRECT or buffered,
// how files get their names, and threads. Only ratios within one run count on a shared machine.
// Usage: node native/scripts/bench.mjs [--folder DIR] [--bytes N] [--rounds N] [--sizes 65536,…] [--threads 2,…]
//        [--modes direct,buffered] [--publish link,rename] (after `npm run build -w @kvferry/native`)
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { checksumImplementation, crc32c, createFileEngine, createRegion } from "../dist/index.js";

const KEY_BYTES = 36;
const KiB = 1024;
const { values } = parseArgs({
  options: {
    folder: { type: "string", default: tmpdir() },
    bytes: { type: "string", default: String(256 * KiB * KiB) },
    rounds: { type: "string", default: "3" },
    sizes: { type: "string", default: [64, 256, 1024, 4096].map((size) => size * KiB).join() },
    threads: { type: "string", default: "2,4,8,16" },
    modes: { type: "string", default: "direct,buffered" },
    publish: { type: "string", default: "link,rename" },
  },
});
const list = (text) => text.split(",").filter((item) => item !== "");

function median(numbers) {
  return [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
}

async function timed(action) {
  const start = performance.now();
  await action();
  return (performance.now() - start) / 1000;
}

function storeOptions(folder, blockBytes, mode, publish) {
  return {
    blocksFolder: join(folder, "blocks"),
    tmpFolder: join(folder, "tmp"),
    quarantineFolder: join(folder, "quarantine"),
    quarantineFilesMax: 4,
    layout: "kvferry",
    namespaceDigest: new Uint8Array(32),
    writer: "bench",
    keyBytes: KEY_BYTES,
    blockBytes,
    fileMode: 0o600,
    folderMode: 0o700,
    fsync: false,
    adopt: false,
    direct: mode === "direct" ? "on" : "off",
    publish,
  };
}

/** Random-looking first bytes, as hashes have: files spread over all folders. */
function keysOf(count) {
  const keys = Buffer.alloc(count * KEY_BYTES);
  for (let i = 0; i < count; i++) {
    keys.writeUInt32LE(Math.imul(i + 1, 0x9e3779b1) >>> 0, i * KEY_BYTES);
    keys.writeUInt32LE(i, i * KEY_BYTES + 4);
  }
  return new Uint8Array(keys);
}

function expectAll({ outcomes }, outcome) {
  const wrong = outcomes.find((each) => each !== outcome);
  if (wrong !== undefined) throw new Error(`a block ended with outcome ${wrong}, not ${outcome}`);
}

async function measure(region, blockBytes, mode, publish, threads, rounds) {
  const folder = mkdtempSync(join(values.folder, "kvferry-bench-"));
  const engine = createFileEngine({ threads });
  try {
    const store = await engine.openStore(storeOptions(folder, blockBytes, mode, publish));
    const count = Math.floor(region.bytes.length / blockBytes);
    const io = {
      keys: keysOf(count),
      memory: region.bytes,
      rowBytes: blockBytes,
      slots: Uint32Array.from({ length: count }, (_, i) => i),
    };
    const seconds = { store: [], load: [] };
    for (let round = 0; round < rounds; round++) {
      seconds.store.push(await timed(async () => expectAll(await store.store(io), 1)));
      seconds.load.push(await timed(async () => expectAll(await store.load(io), 4)));
      await store.remove(io.keys);
    }
    const result = { blockBytes, mode, publish, threads };
    for (const operation of ["store", "load"]) {
      const middle = median(seconds[operation]);
      result[`${operation}GBps`] = Number(((count * blockBytes) / middle / 1e9).toFixed(2));
      result[`${operation}BlocksPerSecond`] = Math.round(count / middle);
    }
    return result;
  } finally {
    await engine.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

function checksumGBps(bytes, rounds) {
  const block = bytes.subarray(0, 256 * KiB);
  crc32c(block);
  const start = performance.now();
  for (let i = 0; i < rounds; i++) crc32c(block);
  return Number(((block.length * rounds) / (performance.now() - start) / 1e6).toFixed(1));
}

const region = createRegion({ rows: 1, rowBytes: Number(values.bytes) });
// Touched before it is measured: the first touch of memory is slower than any drive.
for (let i = 0; i < region.bytes.length; i += 8) region.bytes[i] = i >> 3;
const results = [];
for (const size of list(values.sizes)) {
  for (const mode of list(values.modes)) {
    for (const publish of list(values.publish)) {
      for (const threads of list(values.threads)) {
        results.push(await measure(region, Number(size), mode, publish, Number(threads), Number(values.rounds)));
        process.stderr.write(`${JSON.stringify(results.at(-1))}\n`);
      }
    }
  }
}
const leftovers = readdirSync(values.folder).filter((name) => name.startsWith("kvferry-bench-"));
console.log(
  JSON.stringify(
    {
      node: process.version,
      cores: availableParallelism(),
      checksum: { implementation: checksumImplementation(), GBps: checksumGBps(region.bytes, 20_000) },
      bytesPerRound: region.bytes.length,
      rounds: Number(values.rounds),
      leftovers: leftovers.length,
      results,
    },
    null,
    2,
  ),
);

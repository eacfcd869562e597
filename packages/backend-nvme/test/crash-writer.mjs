// Stores, loads and removes blocks of a drive at capacity until it is killed: crash-writer.mjs PATH SEED ENGINE. Run by crash.test.ts against the
// built package. Says "removed N" when the removal of block N was reported as done.

import { NvmeBackend } from "@kvferry/backend-nvme";
import { createMemoryRegion, createNamespace, packedKeys } from "@kvferry/core";
import { CRASH_BLOCK_BYTES, CRASH_DRIVE, fillBlock, KEY_BYTES, makeKeys, namespaceFields } from "./crash-blocks.mjs";

const [path, seed, ioUring] = process.argv.slice(2);
const backend = new NvmeBackend({ path, ...CRASH_DRIVE, ioUring });
await backend.open({ namespace: createNamespace(namespaceFields), keyBytes: KEY_BYTES, blockBytes: CRASH_BLOCK_BYTES });
const ROWS = 16;
backend.onEvicting(async ({ keys, load }) => {
  const all = Uint32Array.from({ length: keys.count }, (_, i) => i);
  await load(all, createMemoryRegion(keys.count, CRASH_BLOCK_BYTES), all); // so that some are on their way out when it is killed
});
process.stdout.write("storing\n");

/** One of several streams of calls at a time. */
async function run(first) {
  const region = createMemoryRegion(ROWS, CRASH_BLOCK_BYTES);
  const slots = Uint32Array.from({ length: ROWS }, (_, i) => i);
  for (let at = first; ; at += ROWS) {
    for (let i = 0; i < ROWS; i++) {
      fillBlock(region.bytes.subarray(i * CRASH_BLOCK_BYTES, (i + 1) * CRASH_BLOCK_BYTES), at + i);
    }
    await backend.store({ keys: packedKeys(makeKeys(at, ROWS), KEY_BYTES), region, slots });
    const used = packedKeys(makeKeys(at, 3), KEY_BYTES);
    await backend.load({ keys: used, region, slots: slots.subarray(0, 3) }); // so that some are copied when room is made
    await backend.remove(packedKeys(makeKeys(at + 5, 1), KEY_BYTES));
    process.stdout.write(`removed ${at + 5}\n`);
  }
}

await Promise.all([0, 1, 2].map((stream) => run(Number(seed) * 10_000_000 + stream * 1_000_000)));

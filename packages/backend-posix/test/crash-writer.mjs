// Stores blocks until it is killed: crash-writer.mjs ROOT PUBLISH SEED. Run by crash.test.ts against the built package.

import { PosixBackend } from "@kvferry/backend-posix";
import { createMemoryRegion, createNamespace, packedKeys } from "@kvferry/core";
import { BLOCK_BYTES, fillBlock, KEY_BYTES, makeKeys, namespaceFields } from "./crash-blocks.mjs";

const [root, publish, seed] = process.argv.slice(2);
const backend = new PosixBackend({ root, publish, threads: 4 });
await backend.open({ namespace: createNamespace(namespaceFields), keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES });
const rows = 16;
const region = createMemoryRegion(rows, BLOCK_BYTES);
process.stdout.write("storing\n");
for (let first = Number(seed) * 1_000_000; ; first += rows) {
  for (let i = 0; i < rows; i++) fillBlock(region.bytes.subarray(i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES), first + i);
  const slots = Uint32Array.from({ length: rows }, (_, i) => i);
  await backend.store({ keys: packedKeys(makeKeys(first, rows), KEY_BYTES), region, slots });
}

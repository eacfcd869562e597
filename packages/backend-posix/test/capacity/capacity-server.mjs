// A server that shares a root's capacity: capacity-server.mjs ROOT SEED CAPACITY_BYTES PUBLISH; scripts/lib/capacity-server.mjs says what it does. Run by
// servers.test.ts against the built package.
import { PosixBackend } from "@kvferry/backend-posix";
import { packedKeys } from "@kvferry/core";
import { runCapacityServer } from "../../../../scripts/lib/capacity-server.mjs";
import * as blocks from "../crash-blocks.mjs";

const [root, seed, capacityBytes, publish] = process.argv.slice(2);
await runCapacityServer({
  backend: new PosixBackend({ root, publish, threads: 4, capacityBytes: Number(capacityBytes) }),
  seed,
  blocks: { ...blocks, keysFrom: (first, count) => packedKeys(blocks.makeKeys(first, count), blocks.KEY_BYTES) },
  rows: 16,
  numbers: 4000,
});

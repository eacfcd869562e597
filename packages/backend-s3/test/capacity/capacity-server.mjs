// A server that shares a prefix's capacity: capacity-server.mjs CONFIG_JSON SEED; scripts/lib/capacity-server.mjs says what it does. Run by servers.test.ts against the
// built packages.
import { S3Backend } from "@kvferry/backend-s3";
import { packKeys } from "@kvferry/core";
import { runCapacityServer } from "../../../../scripts/lib/capacity-server.mjs";
import * as blocks from "./blocks.mjs";
import { TEST_PACE } from "./pace.mjs";

const [config, seed] = process.argv.slice(2);
const keysFrom = (first, count) => packKeys(Array.from({ length: count }, (_, i) => blocks.keyNumber(first + i)));
await runCapacityServer({
  backend: new S3Backend(JSON.parse(config), TEST_PACE),
  seed,
  blocks: { ...blocks, keysFrom },
  rows: 8,
  numbers: 1500,
  // now and then a store is cut short, so that nobody knows what became of it
  storeOptions(random) {
    const mayFail = random(8) === 0;
    return { options: { deadlineMs: mayFail ? 1 + random(20) : 60_000 }, mayFail };
  },
});

// A server that shares a prefix's capacity: capacity-server.mjs CONFIG_JSON SEED. Reads commands, a line each: "go" stores and loads from then on, "usage"
// asks. Writes a line of JSON for each answer, and what it has done every 100 ms. Run by servers.test.ts against the built packages.
import { createInterface } from "node:readline";
import { S3Backend } from "@kvferry/backend-s3";
import { createMemoryRegion, createNamespace, Outcome, packKeys } from "@kvferry/core";
import { BLOCK_BYTES, fillBlock, KEY_BYTES, keyNumber, namespaceFields } from "./blocks.mjs";
import { TEST_PACE } from "./pace.mjs";

const ROWS = 8;
const NUMBERS = 1500;

const [config, seed] = process.argv.slice(2);
const backend = new S3Backend(JSON.parse(config), TEST_PACE);
await backend.open({ namespace: createNamespace(namespaceFields), keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES });
const done = { stored: 0, dropped: 0, loaded: 0, missed: 0, failed: 0, wrong: 0 };

function say(facts) {
  process.stdout.write(`${JSON.stringify(facts)}\n`);
}

function count(outcomes, outcome) {
  return outcomes.reduce((sum, found) => sum + (found === outcome ? 1 : 0), 0);
}

let state = Number(seed) + 1;
function random(below) {
  state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x6d2b79f5;
  return ((state ^ (state >>> 12)) >>> 0) % below;
}

function batch(region, first) {
  const slots = Uint32Array.from({ length: ROWS }, (_, i) => i);
  return { keys: packKeys(Array.from(slots, (i) => keyNumber(first + i))), region, slots };
}

function row(region, i) {
  return region.bytes.subarray(i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES);
}

async function storeOn() {
  const region = createMemoryRegion(ROWS, BLOCK_BYTES);
  for (;;) {
    const first = random(NUMBERS);
    for (let i = 0; i < ROWS; i++) fillBlock(row(region, i), first + i);
    // now and then a store is cut short, so that nobody knows what became of it
    const deadlineMs = random(8) === 0 ? 1 + random(20) : 60_000;
    const { outcomes } = await backend.store(batch(region, first), { deadlineMs });
    done.stored += count(outcomes, Outcome.STORED);
    done.dropped += count(outcomes, Outcome.DROPPED);
    if (deadlineMs === 60_000) done.failed += count(outcomes, Outcome.FAILED);
    await new Promise((resolve) => setTimeout(resolve, count(outcomes, Outcome.DROPPED) > 0 ? 20 : 2));
  }
}

async function loadOn() {
  const region = createMemoryRegion(ROWS, BLOCK_BYTES);
  const expected = new Uint8Array(BLOCK_BYTES);
  for (;;) {
    const first = random(NUMBERS);
    const asked = batch(region, first);
    await backend.lookup(asked.keys);
    const { outcomes } = await backend.load(asked);
    for (const [i, outcome] of outcomes.entries()) {
      if (outcome !== Outcome.LOADED) continue;
      fillBlock(expected, first + i);
      if (Buffer.compare(row(region, i), expected) !== 0) done.wrong++;
    }
    done.loaded += count(outcomes, Outcome.LOADED);
    done.missed += count(outcomes, Outcome.MISS);
    done.failed += count(outcomes, Outcome.FAILED) + count(outcomes, Outcome.CORRUPT);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const commands = {
  go() {
    void storeOn();
    void loadOn();
  },
  async usage() {
    say({ usage: await backend.usage(), status: backend.rootStatus });
  },
};
createInterface({ input: process.stdin }).on("line", (line) => commands[line]());
process.stdin.on("end", () => process.exit(0));
setInterval(() => say({ done, leads: backend.rootStatus.leads }), 100);
say({ open: true });

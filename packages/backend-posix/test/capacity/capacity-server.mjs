// A server that shares a root's capacity: capacity-server.mjs ROOT SEED CAPACITY_BYTES PUBLISH. Reads commands, a line each: "go" stores and loads from then on,
// "usage" asks. Writes a line of JSON for each answer, and what it has done every 100 ms. Run by servers.test.ts against the built package.
import { createInterface } from "node:readline";
import { PosixBackend } from "@kvferry/backend-posix";
import { createMemoryRegion, createNamespace, Outcome, packedKeys } from "@kvferry/core";
import { BLOCK_BYTES, fillBlock, KEY_BYTES, makeKeys, namespaceFields } from "../crash-blocks.mjs";

const ROWS = 16;
const NUMBERS = 4000;

const [root, seed, capacityBytes, publish] = process.argv.slice(2);
const backend = new PosixBackend({ root, publish, threads: 4, capacityBytes: Number(capacityBytes) });
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
  return { keys: packedKeys(makeKeys(first, ROWS), KEY_BYTES), region, slots };
}

function row(region, i) {
  return region.bytes.subarray(i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES);
}

async function storeOn() {
  const region = createMemoryRegion(ROWS, BLOCK_BYTES);
  for (;;) {
    const first = random(NUMBERS);
    for (let i = 0; i < ROWS; i++) fillBlock(row(region, i), first + i);
    const { outcomes } = await backend.store(batch(region, first));
    done.stored += count(outcomes, Outcome.STORED);
    done.dropped += count(outcomes, Outcome.DROPPED);
    done.failed += count(outcomes, Outcome.FAILED);
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

// What a server does that shares a capacity, in tests that kill it: reads commands, a line each: "go" stores and loads from then on, "usage" asks. Writes a
// line of JSON for each answer, and what it has done every 100 ms. Its other end is capacity-process.mjs.
import { createInterface } from "node:readline";
import { createMemoryRegion, createNamespace, Outcome } from "@kvferry/core";

const PLAIN = { options: {}, mayFail: false };

/**
 * @param backend not open yet; it has a `rootStatus`.
 * @param blocks `KEY_BYTES`, `BLOCK_BYTES`, `namespaceFields`, `fillBlock(bytes, number)` and `keysFrom(first, count)`.
 * @param rows blocks in a batch.
 * @param numbers batches begin at 0 to this.
 * @param storeOptions what the next store is called with, and whether its blocks may fail.
 */
export async function runCapacityServer({ backend, seed, blocks, rows, numbers, storeOptions = () => PLAIN }) {
  const { KEY_BYTES, BLOCK_BYTES, namespaceFields, fillBlock, keysFrom } = blocks;
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
    return { keys: keysFrom(first, rows), region, slots: Uint32Array.from({ length: rows }, (_, i) => i) };
  }

  function row(region, i) {
    return region.bytes.subarray(i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES);
  }

  async function storeOn() {
    const region = createMemoryRegion(rows, BLOCK_BYTES);
    for (;;) {
      const first = random(numbers);
      for (let i = 0; i < rows; i++) fillBlock(row(region, i), first + i);
      const { options, mayFail } = storeOptions(random);
      const { outcomes } = await backend.store(batch(region, first), options);
      done.stored += count(outcomes, Outcome.STORED);
      done.dropped += count(outcomes, Outcome.DROPPED);
      if (!mayFail) done.failed += count(outcomes, Outcome.FAILED);
      await new Promise((resolve) => setTimeout(resolve, count(outcomes, Outcome.DROPPED) > 0 ? 20 : 2));
    }
  }

  async function loadOn() {
    const region = createMemoryRegion(rows, BLOCK_BYTES);
    const expected = new Uint8Array(BLOCK_BYTES);
    for (;;) {
      const first = random(numbers);
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
}

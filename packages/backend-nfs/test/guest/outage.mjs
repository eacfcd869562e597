// A server that goes away under hard mounts, and comes back: node outage.mjs v3|v4
import { strict as assert } from "node:assert";
import { readFile } from "node:fs/promises";
import { after, describe, it } from "node:test";
import { LookupState, Outcome, outcomeCode } from "@kvferry/core";
import { createFileEngine } from "@kvferry/native";
import { BLOCK_BYTES, batchOf, count, isRight, keysOf, openBackend, sleep, tell, twoRoots } from "./blocks.mjs";
import { startStorage, stopStorage } from "./storage-server.mjs";

const version = process.argv[2];
const BLOCKS = 64;
const DEADLINE_MS = 500;
const THREADS = 8;
const SENTINEL = 0xee;

describe(`an outage of the server over NFS ${version}`, () => {
  after(startStorage); // or this process would never end

  it("holds no call past its deadline, touches no slot later, and is over when the server is back", async () => {
    const [one, two] = twoRoots(version);
    const engine = createFileEngine({ threads: THREADS, abandonable: true, stuckAfterMs: 300 });
    const writer = await openBackend(two);
    const backend = await openBackend(one, { engine });
    assert.equal(count((await writer.store(batchOf(0, BLOCKS))).outcomes, Outcome.STORED), BLOCKS);
    await sleep(1000);
    assert.equal(count(await backend.lookup(keysOf(0, BLOCKS)), LookupState.HIT), BLOCKS);

    stopStorage();
    const options = { deadlineMs: DEADLINE_MS };
    const abandoned = [];
    const seen = { failed: 0, deadline: 0, loaded: 0, longestMs: 0 };
    for (let round = 0; round < 6; round++) {
      const startedMs = performance.now();
      const batch = batchOf(0, BLOCKS);
      batch.region.bytes.fill(SENTINEL);
      const [loads, stores, lookup] = await Promise.all([
        backend.load(batch, options),
        backend.store(batchOf(1000 + round * BLOCKS, BLOCKS), options),
        backend.lookup(keysOf(5000 + round * BLOCKS, BLOCKS), options).then(
          () => "answered",
          ({ code }) => code,
        ),
      ]);
      seen.longestMs = Math.max(seen.longestMs, Math.round(performance.now() - startedMs));
      assert.ok(["DEADLINE", "UNAVAILABLE", "answered"].includes(lookup), lookup);
      seen.loaded += count(loads.outcomes, Outcome.LOADED);
      for (const result of [loads, stores]) {
        seen.failed += count(result.outcomes, Outcome.FAILED);
        for (let i = 0; i < BLOCKS; i++) if (outcomeCode(result, i) === "DEADLINE") seen.deadline++;
      }
      abandoned.push([batch, loads]);
      await readFile("/proc/self/status"); // Node's own threads are not held
      assert.ok(engine.stats().stuckThreads <= 2 * THREADS, `${engine.stats().stuckThreads} threads`); // and those that replace them
    }
    tell(`${version} calls while the server was away`, { ...seen, stuckThreads: engine.stats().stuckThreads });
    assert.ok(seen.failed > 0 && seen.deadline > 0);
    // far more than the deadline, but far less than an outage
    assert.ok(seen.longestMs < 20_000, `${seen.longestMs} ms`);

    startStorage();
    const backMs = performance.now();
    for (let hits = 0; hits < BLOCKS; ) {
      assert.ok(performance.now() - backMs < 240_000, "no blocks came back");
      const batch = batchOf(0, BLOCKS);
      batch.region.bytes.fill(0);
      const states = await backend.lookup(keysOf(0, BLOCKS), { deadlineMs: 5000 }).catch(() => []);
      if (count(states, LookupState.HIT) < BLOCKS) continue;
      const { outcomes } = await backend.load(batch, { deadlineMs: 5000 });
      hits = count(outcomes, Outcome.LOADED);
      for (let i = 0; i < BLOCKS; i++) if (outcomes[i] === Outcome.LOADED) assert.ok(isRight(batch, 0, i));
    }
    tell(`${version} all blocks loaded again after the server was back`, {
      ms: Math.round(performance.now() - backMs),
    });
    while (engine.stats().running > 0 || engine.stats().stuckThreads > 0) await sleep(50);
    for (const [{ region }, { outcomes }] of abandoned) {
      for (let i = 0; i < BLOCKS; i++) {
        if (outcomes[i] === Outcome.LOADED) continue;
        const row = region.bytes.subarray(i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES);
        assert.ok(
          row.every((byte) => byte === SENTINEL),
          "a slot was touched after its call had ended",
        );
      }
    }
    await Promise.all([backend.close(), writer.close()]);
    await engine.close();
  });
});

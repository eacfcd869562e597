import { LookupState, Outcome } from "@kvferry/core";
import { describe, expect, it } from "vitest";
import {
  CHUNK_BYTES,
  chunkPattern,
  connectScheduler,
  connectWorker,
  newEngine,
  serveDirect,
} from "./direct-helpers.js";
import { connect, randomKeys, range } from "./helpers.js";

const TIMEOUT_MS = 60_000;

const all = (count: number, outcome: number): number[] => new Array(count).fill(outcome);

describe("an engine in direct mode", { timeout: TIMEOUT_MS }, () => {
  it("stores chunks of all its workers' parts, finds them, and loads them into other pages", async () => {
    const { socket } = await serveDirect();
    const engine = newEngine(socket);
    const scheduler = await connectScheduler(engine);
    const workers = [await connectWorker(engine, 0), await connectWorker(engine, 1)] as const;
    const keys = randomKeys(20);

    const first = await workers[0].client.gather(1, workers[0].pages.fill(keys));
    expect([...first.outcomes]).toEqual(all(20, Outcome.STORED));
    expect([...(await scheduler.client.lookup(keys))]).toEqual(all(20, LookupState.MISS));
    expect(scheduler.stored).toEqual([]);
    const second = await workers[1].client.gather(1, workers[1].pages.fill(keys));
    expect([...second.outcomes]).toEqual(all(20, Outcome.STORED));
    expect(await scheduler.outcomesOf(1)).toEqual(all(20, Outcome.STORED));
    expect([...(await scheduler.client.lookup(keys))]).toEqual(all(20, LookupState.HIT));

    const held = await scheduler.client.hold(keys);
    expect([...held.outcomes]).toEqual(all(20, Outcome.LOADED));
    for (const { client, pages } of workers) {
      pages.clear();
      const { outcomes } = await client.scatter(pages.chunks(keys, 100));
      expect([...outcomes]).toEqual(all(20, Outcome.LOADED));
      for (const i of range(20)) expect(pages.holds(keys, i, 100), `chunk ${i}`).toBe(true);
    }
    scheduler.client.release(keys);
    await scheduler.client.ping();
    const { outcomes } = await workers[0].client.scatter(workers[0].pages.chunks(keys, 100));
    expect([...outcomes]).toEqual(all(20, Outcome.MISS));
  });

  it("shares its chunks with engines in tier mode: the bytes are the same, zeros behind the parts included", async () => {
    const { socket } = await serveDirect();
    const engine = newEngine(socket);
    const scheduler = await connectScheduler(engine);
    const workers = [await connectWorker(engine, 0), await connectWorker(engine, 1)] as const;
    const keys = randomKeys(4);
    for (const { client, pages } of workers) await client.gather(1, pages.fill(keys));
    await scheduler.outcomesOf(1);
    const tier = await connect(socket, { blockBytes: CHUNK_BYTES, rows: 8 });
    expect([...(await tier.client.load(keys, range(4))).outcomes]).toEqual(all(4, Outcome.LOADED));
    for (const i of range(4)) {
      const { bytes, rowBytes } = tier.region;
      expect(Buffer.compare(bytes.subarray(i * rowBytes, i * rowBytes + CHUNK_BYTES), chunkPattern(keys, i))).toBe(0);
    }
    const again = await workers[0].client.gather(2, workers[0].pages.chunks(keys));
    expect([...again.outcomes]).toEqual(all(4, Outcome.PRESENT));
    expect(await scheduler.outcomesOf(2)).toEqual(all(4, Outcome.PRESENT));
  });
});

import { LookupState, Outcome } from "@kvferry/core";
import { describe, expect, it } from "vitest";
import {
  connectScheduler,
  layout,
  MEMORY_BYTES,
  metricOf,
  newEngine,
  serveDirect,
  WorkerPages,
} from "./direct-helpers.js";
import { WorkerProcess } from "./direct-worker-process.js";
import { randomKeys, range, until } from "./helpers.js";

const all = (count: number, outcome: number): number[] => new Array(count).fill(outcome);

describe("two ranks in processes of their own", { timeout: 120_000 }, () => {
  it("have their memory gathered and scattered; a chunk is a hit when both parts have come, and not before", async () => {
    const served = await serveDirect();
    const identity = newEngine(served.socket);
    const scheduler = await connectScheduler(identity);
    const ranks = await Promise.all(
      [0, 1].map(async (part) => {
        const worker = await WorkerProcess.start({ ...identity, ...layout, part, memoryBytes: MEMORY_BYTES });
        return { worker, pages: new WorkerPages(worker.region, part) };
      }),
    );
    const [one, two] = ranks as [(typeof ranks)[0], (typeof ranks)[0]];
    const keys = randomKeys(30);
    expect(await one.worker.order("gather", 1, one.pages.fill(keys))).toEqual(all(30, Outcome.STORED));
    expect([...(await scheduler.client.lookup(keys))]).toEqual(all(30, LookupState.MISS));
    expect([...(await scheduler.client.hold(keys)).outcomes]).toEqual(all(30, Outcome.MISS));
    expect(await two.worker.order("gather", 1, two.pages.fill(keys))).toEqual(all(30, Outcome.STORED));
    expect(await scheduler.outcomesOf(1)).toEqual(all(30, Outcome.STORED));
    expect([...(await scheduler.client.lookup(keys))]).toEqual(all(30, LookupState.HIT));
    expect([...(await scheduler.client.hold(keys)).outcomes]).toEqual(all(30, Outcome.LOADED));
    for (const { worker, pages } of ranks) {
      pages.clear();
      expect(await worker.order("scatter", 0, pages.chunks(keys, 200))).toEqual(all(30, Outcome.LOADED));
      for (const i of range(30)) expect(pages.holds(keys, i, 200), `chunk ${i}`).toBe(true);
    }
    await one.worker.kill();
    await until(async () => (await served.server.status()).direct[0]?.workers === 1, 20_000);
    expect([...(await scheduler.client.hold(keys)).outcomes]).toEqual(all(30, Outcome.FAILED));
    expect(await metricOf(served, "kvferry_direct_gathered_parts_total")).toBe(60);
    expect(await metricOf(served, "kvferry_direct_scattered_parts_total")).toBe(60);
  });
});

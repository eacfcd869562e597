import { LimitLayer, MemoryBackend, Outcome, outcomeCode } from "@kvferry/core";
import { describe, expect, it } from "vitest";
import { assertAllFailed, assertOutcomes, numbers, sleep } from "../src/bench.js";
import { FaultyBackend } from "../src/index.js";
import { openBench } from "./open-bench.js";

async function setup(config: ConstructorParameters<typeof LimitLayer>[1]) {
  const faulty = new FaultyBackend(new MemoryBackend());
  const layer = new LimitLayer(faulty, config);
  return { faulty, layer, bench: await openBench(layer) };
}

describe("the limit layer", () => {
  it("lets no more calls through at once than it may", async () => {
    const { faulty, layer, bench } = await setup({ callsMax: 3, queueDepthMax: 100 });
    const hang = faulty.hang("store");
    const stores = numbers(10).map((id) => bench.mustStore([id]));
    await sleep(5);
    expect(faulty.calls.store).toBe(3);
    expect(layer.queueDepth).toBe(7);
    hang.remove();
    await Promise.all(stores);
    expect(layer.queueDepth).toBe(0);
    await bench.mustLoad(numbers(10));
  });

  it("bounds the bytes under way, and lets a batch that is larger run alone", async () => {
    const { faulty, bench } = await setup({ bytesMax: 1000, queueDepthMax: 100 }); // blocks of 256: three fit
    const hang = faulty.hang("store");
    const stores = [
      bench.store([1]),
      bench.store([2, 3]),
      bench.store([4]),
      bench.store(numbers(10, 100)),
      bench.store([5]),
    ];
    await sleep(5);
    expect(faulty.calls.store).toBe(2);
    hang.remove();
    for (const result of await Promise.all(stores))
      expect([...result.outcomes].every((each) => each === Outcome.STORED)).toBe(true);
  });

  it("counts bytes down again when calls end", async () => {
    const { faulty, bench } = await setup({ bytesMax: 1000, queueDepthMax: 100 });
    for (const id of numbers(10)) await bench.mustStore([id]);
    const hang = faulty.hang("store");
    const stores = numbers(3, 100).map((id) => bench.store([id]));
    await sleep(5);
    expect(faulty.calls.store).toBe(13);
    hang.remove();
    await Promise.all(stores);
  });

  it("takes loads before stores that came first", async () => {
    const { faulty, bench } = await setup({ callsMax: 1, queueDepthMax: 100 });
    await bench.mustStore([1]);
    const order: string[] = [];
    const hang = faulty.hang("store");
    const calls = [
      bench.store([2]).then(() => order.push("store 2")),
      bench.store([3]).then(() => order.push("store 3")),
      bench.load([1]).then(() => order.push("load")),
    ];
    await sleep(5);
    hang.remove();
    await Promise.all(calls);
    expect(order).toEqual(["store 2", "load", "store 3"]);
  });

  it("does not let a load wait behind a store that is too large for now", async () => {
    const { faulty, bench } = await setup({ bytesMax: 1000, queueDepthMax: 100 });
    const hang = faulty.hang("store");
    const stores = [bench.store([1]), bench.store([2, 3, 4, 5])];
    await sleep(5);
    assertOutcomes((await bench.load([9])).result, [Outcome.MISS], "load while a store waits");
    hang.remove();
    await Promise.all(stores);
  });

  it("drops stores and fails loads that find no place", async () => {
    const { faulty, bench } = await setup({ callsMax: 1, queueDepthMax: 2 });
    const hangs = [faulty.hang("store"), faulty.hang("load")];
    const waiting = [bench.load([1]), bench.load([1]), bench.load([1])];
    await sleep(5);
    const dropped = await bench.store([2]);
    assertOutcomes(dropped, [Outcome.DROPPED], "store");
    expect(outcomeCode(dropped, 0)).toBe("BUSY");
    assertAllFailed((await bench.load([1])).result, "BUSY", "load");
    assertAllFailed(await bench.remove([1]), "BUSY", "remove");
    for (const hang of hangs) hang.remove();
    for (const { result } of await Promise.all(waiting)) assertOutcomes(result, [Outcome.MISS], "load that waited");
  });

  it("gives a load the place of the store that came last", async () => {
    const { faulty, bench } = await setup({ callsMax: 1, queueDepthMax: 2 });
    const hang = faulty.hang("store");
    const stores = [bench.store([1]), bench.store([2]), bench.store([3])];
    await sleep(5);
    const loading = bench.load([9]);
    assertOutcomes(await (stores[2] as (typeof stores)[0]), [Outcome.DROPPED], "the last store");
    hang.remove();
    assertOutcomes((await loading).result, [Outcome.MISS], "load");
    assertOutcomes(await (stores[1] as (typeof stores)[0]), [Outcome.STORED], "the store before");
  });

  it("lets a call go that is aborted while it waits", async () => {
    const { faulty, layer, bench } = await setup({ callsMax: 1 });
    const hang = faulty.hang("store");
    const first = bench.store([1]);
    const waiting = bench.store([2], { deadlineMs: 10 });
    assertAllFailed(await waiting, "DEADLINE", "store that waited");
    expect(layer.queueDepth).toBe(0);
    hang.remove();
    await first;
    expect(faulty.calls.store).toBe(1);
  });

  it("lets lookups through whatever waits", async () => {
    const { faulty, bench } = await setup({ callsMax: 1, queueDepthMax: 0 });
    const hang = faulty.hang("store");
    const storing = bench.store([1]);
    expect([...(await bench.lookup([1]))]).toEqual([0]);
    hang.remove();
    await storing;
  });

  it("goes on after calls that reject", async () => {
    const { faulty, bench } = await setup({ callsMax: 1 });
    faulty.reject("store", "UNAVAILABLE", 1);
    await expect(bench.store([1])).rejects.toMatchObject({ code: "UNAVAILABLE" });
    await bench.mustStore([1]);
  });
});

import { setImmediate as nextTurn } from "node:timers/promises";
import {
  createMemoryStorage,
  EvictingListeners,
  type EvictionSource,
  type KeyBatch,
  keyHex,
  LookupState,
  MemoryBackend,
  Outcome,
  type RemovalReason,
  slotBytes,
  TieredStore,
  type TieredStoreOptions,
  type TierOptions,
  uniformResult,
} from "@kvferry/core";
import { afterEach, describe, expect, it } from "vitest";
import { assertOutcomes, type Bench, describeOutcome, numbers } from "../src/bench.js";
import { FaultyBackend } from "../src/index.js";
import { openBench, TestClock } from "./open-bench.js";

const { HIT, MISS, PENDING } = LookupState;
const { LOADED, STORED } = Outcome;
const BLOCK_BYTES = 256;

interface Open {
  readonly store: TieredStore;
  readonly bench: Bench;
  readonly tiers: readonly FaultyBackend[];
}

const benches: Bench[] = [];
afterEach(async () => {
  for (const { backend } of benches.splice(0)) await backend.close();
});

/** Tiers over memory, each of which can be made to fail. */
async function open(
  tiers: readonly Omit<TierOptions, "backend" | "name">[],
  options: Partial<TieredStoreOptions> & { clock?: TestClock; shared?: boolean } = {},
): Promise<Open> {
  const { clock, shared = false, ...rest } = options;
  const backends = tiers.map((_, i) => {
    const capabilities = { sharedAcrossHosts: shared && i === tiers.length - 1 };
    return new FaultyBackend(new MemoryBackend(), { capabilities });
  });
  const store = new TieredStore({
    tiers: tiers.map((tier, i) => ({ name: `tier${i}`, backend: backends[i] as FaultyBackend, ...tier })),
    ...rest,
  });
  const bench = await openBench(store, { blockBytes: BLOCK_BYTES, ...(clock && { clock }) });
  benches.push(bench);
  await store.settled();
  return { store, bench, tiers: backends };
}

/** A source whose evictions a test makes up. `tell` settles when its listeners have; `held` keeps their reads waiting. */
function leavingSource(): {
  readonly source: EvictionSource;
  readonly listeners: EvictingListeners;
  tell(bench: Bench, ids: readonly number[], patience?: AbortSignal, held?: Promise<void>): Promise<void>;
} {
  const listeners = new EvictingListeners();
  return {
    source: { onEvicting: (listener) => listeners.add(listener) },
    listeners,
    tell(bench, ids, patience, held) {
      const { keys, region: from } = bench.filled(ids);
      return listeners.tell({
        keys,
        patience,
        async load(positions, region, slots) {
          await held;
          for (const [i, position] of positions.entries()) {
            slotBytes(region, slots[i] as number, BLOCK_BYTES).set(slotBytes(from, position, BLOCK_BYTES));
          }
          return uniformResult(positions.length, LOADED);
        },
      });
    },
  };
}

/** What a tier has, whatever the store thinks. */
async function has({ tiers, bench }: Open, tier: number, ids: readonly number[]): Promise<boolean[]> {
  const states = await (tiers[tier] as FaultyBackend).lookup(bench.keys(ids));
  return [...states].map((state) => state === HIT);
}

const all = (ids: readonly number[], outcome: Outcome): Outcome[] => ids.map(() => outcome);

describe("stores", () => {
  it("are acknowledged by the fast tier, and written back from its copy though the engine has reused its memory", async () => {
    const opened = await open([{}, { write: "back" }]);
    const { bench, store, tiers } = opened;
    const slow = (tiers[1] as FaultyBackend).hang("store");
    const ids = numbers(10);
    const batch = bench.filled(ids);
    assertOutcomes(await bench.storeBatch(batch), all(ids, STORED), "store");
    batch.region.bytes.fill(0);
    batch.keys.bytes.fill(0);
    slow.remove();
    await store.settled();
    expect(await has(opened, 1, ids)).toEqual(ids.map(() => true));
    await (tiers[0] as FaultyBackend).remove(bench.keys(ids));
    await bench.mustLoad(ids, "load of what was written back");
  });

  it("that a crash cuts off from the write-back are a miss afterwards, never wrong bytes", async () => {
    const storage = createMemoryStorage();
    const slow = new FaultyBackend(new MemoryBackend({ storage }));
    const store = new TieredStore({
      tiers: [
        { name: "fast", backend: new MemoryBackend() },
        { name: "slow", backend: slow, write: "back" },
      ],
      drainMs: 0,
    });
    const bench = await openBench(store, { blockBytes: BLOCK_BYTES });
    slow.fail("store", "IO", { probability: 0.5 });
    const ids = numbers(32);
    await bench.mustStore(ids);
    await store.close(); // what was not written by now is as lost as by a crash
    const again = new TieredStore({
      tiers: [
        { name: "fast", backend: new MemoryBackend() },
        { name: "slow", backend: new MemoryBackend({ storage }), write: "back" },
      ],
    });
    await again.open({ namespace: bench.namespace, keyBytes: bench.keyBytes, blockBytes: BLOCK_BYTES });
    const region = bench.region(ids.length);
    const result = await again.load(bench.batch(ids, region));
    bench.assertLoadedContents({ result, region }, ids, "after the crash");
    expect([...result.outcomes].filter((each) => each === Outcome.MISS).length).toBeGreaterThan(0);
    await again.close();
  });

  it("that would wait for a slow tier beyond the bound are dropped there, and counted", async () => {
    const { bench, store, tiers } = await open([{}, { write: "back", pendingBytesMax: 8 * BLOCK_BYTES }]);
    const hang = (tiers[1] as FaultyBackend).hang("store");
    for (let round = 0; round < 4; round++) await bench.mustStore(numbers(5, round * 5));
    expect(store.tierStatus()[1]).toMatchObject({ pendingBlocks: 8, moved: { "write-back dropped": 12 } });
    hang.remove();
    await store.settled();
    expect(store.tierStatus()[1]?.moved).toEqual({ "write-back dropped": 12, "write-back done": 8 });
    await bench.mustLoad(numbers(20));
  });

  it("go into the slow tier at once where the fast one takes nothing", async () => {
    const opened = await open([{}, { write: "back" }]);
    for (const [round, code] of (["IO", "UNAVAILABLE"] as const).entries()) {
      opened.tiers[0]?.fail("store", code, { times: 1 });
      const ids = numbers(4, round * 4);
      await opened.bench.mustStore(ids);
      expect(await has(opened, 1, ids)).toEqual(ids.map(() => true));
    }
  });

  it("are STORED when one of several tiers took them, and FAILED with the code when none did", async () => {
    const { bench, tiers } = await open([{}, {}]);
    tiers[1]?.fail("store", "NO_SPACE", { times: 2 });
    await bench.mustStore([1]);
    await bench.mustLoad([1]);
    tiers[0]?.fail("store", "PERMISSION", { times: 1 });
    expect(describeOutcome(await bench.store([2]), 0)).toBe("FAILED(PERMISSION)");
  });

  it("are PENDING to lookups until a tier has them", async () => {
    const { bench, tiers } = await open([{}]);
    const hang = (tiers[0] as FaultyBackend).hang("store");
    const storing = bench.store([1]);
    await nextTurn();
    expect([...(await bench.lookup([1, 2]))]).toEqual([PENDING, MISS]);
    expect([...(bench.backend.lookupNow(bench.keys([1, 2])) ?? [])]).toEqual([PENDING, MISS]);
    hang.remove();
    await storing;
    expect([...(await bench.lookup([1, 2]))]).toEqual([HIT, MISS]);
  });

  it("whose block is removed before the write-back stay removed", async () => {
    const opened = await open([{}, { write: "back" }]);
    const { bench, store, tiers } = opened;
    const delay = (tiers[1] as FaultyBackend).delay("store", 20);
    await bench.mustStore(numbers(4));
    const removing = bench.remove(numbers(4));
    await removing;
    delay.remove();
    await store.settled();
    expect(await has(opened, 0, numbers(4))).toEqual([false, false, false, false]);
    expect(await has(opened, 1, numbers(4))).toEqual([false, false, false, false]);
    await bench.mustMiss(numbers(4));
  });
});

describe("loads", () => {
  it("put blocks of a slow tier into the fastest before they end, and into those between soon after", async () => {
    const opened = await open([{ write: "none" }, { write: "none" }, {}]);
    const { bench, store } = opened;
    const ids = numbers(6);
    await bench.mustStore(ids);
    expect(await has(opened, 0, ids)).toEqual(ids.map(() => false));
    await bench.mustLoad(ids);
    expect(await has(opened, 0, ids)).toEqual(ids.map(() => true));
    await store.settled();
    expect(await has(opened, 1, ids)).toEqual(ids.map(() => true));
    expect(store.tierStatus().map(({ moved }) => moved)).toEqual([
      { "promotion done": 6 },
      { "promotion done": 6 },
      {},
    ]);
  });

  it("take each block from the fastest tier that has it", async () => {
    const { bench, store, tiers } = await open([{ write: "none", promote: false }, {}]);
    await bench.mustStore(numbers(6));
    await (tiers[0] as FaultyBackend).store(bench.filled([1, 3]));
    await bench.lookup(numbers(6)); // which tells
    await nextTurn();
    await nextTurn();
    await bench.mustLoad(numbers(6));
    expect(store.tierStatus().map(({ hits }) => hits)).toEqual([2, 4]);
  });

  it("of one block by eight engines read the slow tier once", async () => {
    const { bench, tiers } = await open([{ write: "none" }, {}]);
    const slow = tiers[1] as FaultyBackend;
    const ids = numbers(12);
    await bench.mustStore(ids);
    slow.delay("load", 20);
    await Promise.all(numbers(8).map(() => bench.mustLoad(ids)));
    expect([slow.calls.load, slow.keys.load]).toEqual([1, 12]);
  });

  it("that overlap read each block once", async () => {
    const { bench, tiers } = await open([{ write: "none" }, {}]);
    const slow = tiers[1] as FaultyBackend;
    await bench.mustStore(numbers(24));
    slow.delay("load", 10, 10);
    await Promise.all(numbers(8).map((n) => bench.mustLoad([...numbers(8, n * 2), ...numbers(3, n)])));
    expect(slow.keys.load).toBeLessThanOrEqual(24 + 3); // a key twice in one batch is read twice
  });

  it("go on when the one that reads for all is aborted, or fails", async () => {
    const { bench, tiers } = await open([{ write: "none" }, {}]);
    const slow = tiers[1] as FaultyBackend;
    const ids = numbers(4);
    await bench.mustStore(ids);
    const hang = slow.hang("load");
    const controller = new AbortController();
    const leader = bench.load(ids, { signal: controller.signal });
    await nextTurn();
    const late = bench.load(ids, { deadlineMs: 60_000 });
    const followers = numbers(4).map(() => bench.mustLoad(ids));
    await nextTurn();
    controller.abort();
    hang.remove();
    expect(describeOutcome((await leader).result, 0)).toBe("FAILED(ABORTED)");
    await Promise.all(followers);
    assertOutcomes((await late).result, all(ids, LOADED), "a follower with a deadline");
    slow.fail("load", "IO", { times: 1 });
    await (tiers[0] as FaultyBackend).remove(bench.keys(ids));
    const results = await Promise.all(numbers(5).map(() => bench.load(ids)));
    const failed = results.filter(({ result }) => result.outcomes[0] === Outcome.FAILED);
    expect(failed.length).toBe(1);
    for (const each of results) bench.assertLoadedContents(each, ids, "after a failed read");
  });

  it("that wait for another's read end at their own deadline", async () => {
    const { bench, tiers } = await open([{ write: "none" }, {}]);
    await bench.mustStore([1]);
    const hang = (tiers[1] as FaultyBackend).hang("load");
    const leader = bench.mustLoad([1]);
    await nextTurn();
    const follower = await bench.load([1], { deadlineMs: 5 });
    expect(describeOutcome(follower.result, 0)).toBe("FAILED(DEADLINE)");
    hang.remove();
    await leader;
  });

  it("fall back to slower tiers for what a faster one cannot give", async () => {
    const { bench, tiers } = await open([{}, {}]);
    const ids = numbers(8);
    await bench.mustStore(ids);
    tiers[0]?.fail("load", "IO", { probability: 0.5, times: 1 });
    await bench.mustLoad(ids);
    tiers[0]?.fail("load", "IO", { outcome: Outcome.CORRUPT, times: 1 });
    await bench.mustLoad(ids);
    await (tiers[0] as FaultyBackend).remove(bench.keys([2, 3]));
    await bench.mustLoad(ids);
    expect(await has({ bench, tiers } as Open, 0, ids)).toEqual(ids.map(() => true));
  });
});

describe("a tier that fails", () => {
  it("is skipped by lookups and loads, its blocks are missing meanwhile, and it comes back", async () => {
    const clock = new TestClock();
    const { bench, store, tiers } = await open([{}, {}], { clock });
    await bench.mustStore([1]);
    await (tiers[0] as FaultyBackend).remove(bench.keys([1]));
    const faults = [tiers[1]?.reject("load", "UNAVAILABLE"), tiers[1]?.reject("store", "UNAVAILABLE")];
    await bench.load([1]);
    expect([...(bench.backend.lookupNow(bench.keys([1, 2])) ?? [])]).toEqual([MISS, MISS]);
    const before = tiers[1]?.calls.load;
    expect(describeOutcome((await bench.load([1])).result, 0)).toBe("MISS(UNAVAILABLE)");
    expect(tiers[1]?.calls.load).toBe(before);
    await bench.mustStore([3]);
    await bench.mustLoad([3]);
    expect(store.missReasons().count("tier_down")).toBeGreaterThanOrEqual(3);
    expect(store.tierStatus().map(({ isUp }) => isUp)).toEqual([true, false]);
    for (const fault of faults) fault?.remove();
    clock.ms += 2000;
    expect([...(await bench.lookup([1]))]).toEqual([HIT]);
    await bench.mustLoad([1]);
  });

  it("is left alone while a breaker around it is open, but for a probe now and then", async () => {
    const clock = new TestClock();
    let down = false;
    const { bench, tiers } = await open([{ write: "none" }, { isDown: () => down }], { clock });
    await bench.mustStore([1]);
    down = true;
    const before = tiers[1]?.calls.lookup as number;
    for (let i = 0; i < 5; i++) expect([...(await bench.lookup([1]))]).toEqual([MISS]);
    expect(describeOutcome(await bench.store([2]), 0)).toBe("DROPPED(UNAVAILABLE)");
    expect(tiers[1]?.calls.lookup).toBe(before + 1);
    clock.ms += 2000;
    await bench.lookup([1]);
    expect(tiers[1]?.calls.lookup).toBe(before + 2);
    down = false;
    await bench.mustLoad([1]);
  });

  it("does not reject a lookup that others can answer", async () => {
    const { bench, tiers } = await open([{}, {}], { shared: true });
    await bench.mustStore([1]);
    tiers[1]?.fail("lookup", "IO");
    expect([...(await bench.lookup([1, 2]))]).toEqual([HIT, MISS]);
  });

  it("is named when it cannot be opened, and the others are closed", async () => {
    const first = new MemoryBackend();
    const broken = new MemoryBackend();
    await broken.close();
    const store = new TieredStore({
      tiers: [
        { name: "memory", backend: first },
        { name: "shelf", backend: broken },
      ],
    });
    await expect(openBench(store)).rejects.toThrow(/tier shelf:/);
    expect(first.state).toBe("closed");
  });
});

describe("eviction", () => {
  const bounded = { capacityBytes: 8 * BLOCK_BYTES, policy: "lru" } as const;

  it("keeps a tier within its bound, whoever stores at the same time", async () => {
    const opened = await open([bounded, {}]);
    const { bench, tiers } = opened;
    await Promise.all(numbers(20).map((n) => bench.mustStore(numbers(3, n * 3))));
    expect(await (tiers[0] as FaultyBackend).usage()).toMatchObject({ blocks: 8 });
    await bench.mustLoad(numbers(60));
    expect((await (tiers[0] as FaultyBackend).usage()).blocks).toBeLessThanOrEqual(8);
  });

  it("takes the end of a chain before its beginning", async () => {
    const opened = await open([bounded]);
    await opened.bench.mustStore(numbers(8));
    await opened.bench.mustStore(numbers(3, 100));
    expect(await has(opened, 0, numbers(8))).toEqual([true, true, true, true, true, false, false, false]);
  });

  it("puts what no slower tier has into the next one", async () => {
    const opened = await open([bounded, { write: "none" }]);
    const { bench, store } = opened;
    await bench.mustStore(numbers(8));
    await bench.mustStore(numbers(8, 100));
    await store.settled();
    expect(await has(opened, 1, numbers(8))).toEqual(numbers(8).map(() => true));
    await bench.mustLoad([...numbers(8), ...numbers(8, 100)]);
    expect(store.tierStatus()[1]?.moved["cascade done"]).toBeGreaterThanOrEqual(8);
  });

  it("does not bring back what the next tier has evicted itself, until somebody has loaded it again", async () => {
    const { source, tell } = leavingSource();
    const opened = await open([{ evictions: source }, { ...bounded, policy: "lru" }]);
    const { bench, store } = opened;
    for (const first of [0, 100, 200]) await bench.mustStore(numbers(4, first)); // the second tier has room for eight
    expect(await has(opened, 1, numbers(4))).toEqual(numbers(4).map(() => false));
    await tell(bench, numbers(4));
    await store.settled();
    expect(store.tierStatus()[1]?.moved).toEqual({});
    await bench.mustLoad(numbers(2));
    await tell(bench, numbers(4));
    await store.settled();
    expect(store.tierStatus()[1]?.moved).toEqual({ "cascade done": 2 });
    expect(await has(opened, 1, numbers(4))).toEqual([true, true, false, false]);
  });

  it("drops what the next tier is too slow for, counts it, and says why it is missing", async () => {
    const { bench, store, tiers } = await open([bounded, { write: "none", pendingBytesMax: 2 * BLOCK_BYTES }]);
    const hang = (tiers[1] as FaultyBackend).hang("store");
    await bench.mustStore(numbers(8));
    await bench.mustStore(numbers(8, 100));
    expect(store.tierStatus()[1]?.moved).toEqual({ "cascade dropped": 6 });
    const states = [...(await bench.lookup(numbers(8)))];
    expect(states.filter((state) => state === PENDING).length).toBe(2); // on their way
    expect(states.filter((state) => state === MISS).length).toBe(6);
    expect(store.missReasons().counts()).toMatchObject({ evicted: 6, never_stored: 0 });
    hang.remove();
  });

  it("waits for staging memory where the source can wait, and else drops what does not fit at once", async () => {
    const { source, tell } = leavingSource();
    const staging = { bytesMax: 4 * BLOCK_BYTES };
    const opened = await open([{ evictions: source }, { write: "none" }], { staging });
    const { bench, store } = opened;
    const patience = new AbortController();
    await tell(bench, numbers(12), patience.signal);
    await store.settled();
    expect(store.tierStatus()[1]?.moved).toEqual({ "cascade done": 12 });
    expect(await has(opened, 1, numbers(12))).toEqual(numbers(12).map(() => true));
    const slow = (opened.tiers[1] as FaultyBackend).hang("store");
    const telling = tell(bench, numbers(12, 100), patience.signal);
    for (let turns = 0; turns < 20; turns++) await nextTurn();
    expect(store.tierStatus()[1]).toMatchObject({ moved: { "cascade done": 12 }, pendingBlocks: 1 }); // a quarter of the memory
    patience.abort(); // somebody waits for the room
    await telling;
    expect(store.tierStatus()[1]?.moved).toEqual({ "cascade done": 12, "cascade dropped": 8 });
    slow.remove();
    await store.settled();
    expect(store.tierStatus()[1]?.moved).toEqual({ "cascade done": 16, "cascade dropped": 8 });
  });

  it("does not bring back what is removed while it is being copied", async () => {
    const { source, tell } = leavingSource();
    const opened = await open([{ evictions: source }, { write: "none" }]);
    const { bench, store } = opened;
    let goOn = (): void => {};
    const held = new Promise<void>((resolve) => {
      goOn = resolve;
    });
    const telling = tell(bench, numbers(4), undefined, held);
    const removing = store.remove(bench.keys(numbers(4)));
    for (let turns = 0; turns < 20; turns++) await nextTurn();
    goOn();
    await Promise.all([telling, removing]);
    await store.settled();
    expect(await has(opened, 1, numbers(4))).toEqual(numbers(4).map(() => false));
  });

  it("does not listen to a tier that does not cascade, or has none below", async () => {
    const sources = [leavingSource(), leavingSource(), leavingSource()];
    const tiers = [{ cascade: false }, { write: "none" as const }, { write: "none" as const }];
    await open(tiers.map((tier, i) => ({ ...tier, evictions: sources[i]?.source })));
    expect(sources.map(({ listeners }) => listeners.size)).toEqual([0, 1, 0]);
  });

  it("never takes a block that a load is reading", async () => {
    const { bench, tiers } = await open([bounded]);
    await bench.mustStore(numbers(8));
    const hang = (tiers[0] as FaultyBackend).hang("load");
    const loading = bench.mustLoad(numbers(8));
    await nextTurn();
    expect(describeOutcome(await bench.store([100]), 0)).toBe("DROPPED(NO_SPACE)");
    hang.remove();
    await loading;
    await bench.mustStore([100]);
  });

  it("drops new blocks where the backend does not let go of old ones", async () => {
    const { bench, tiers } = await open([bounded]);
    await bench.mustStore(numbers(8));
    const fault = tiers[0]?.fail("remove", "IO");
    expect(describeOutcome(await bench.store([100]), 0)).toBe("DROPPED(NO_SPACE)");
    await bench.mustLoad(numbers(8));
    fault?.remove();
    await bench.mustStore([100]);
  });

  it("counts what was there before it was opened", async () => {
    const storage = createMemoryStorage();
    const tier = () => ({ name: "kept", backend: new MemoryBackend({ storage }), ...bounded });
    const first = await openBench(new TieredStore({ tiers: [{ ...tier(), capacityBytes: 2 ** 20 }] }), {
      blockBytes: BLOCK_BYTES,
    });
    await first.mustStore(numbers(12));
    await first.backend.close();
    const again = new TieredStore({ tiers: [tier()] });
    await again.open({ namespace: first.namespace, keyBytes: first.keyBytes, blockBytes: BLOCK_BYTES });
    await again.store(first.filled([100, 101]));
    expect((await again.usage()).blocks).toBeLessThanOrEqual(8);
    await again.close();
  });

  it("is announced once no tier has the block", async () => {
    const { bench, store } = await open([bounded, { ...bounded, capacityBytes: 16 * BLOCK_BYTES }]);
    const heard: [string, RemovalReason][] = [];
    store.onRemoved((keys: KeyBatch, reason) => {
      for (let i = 0; i < keys.count; i++) heard.push([keyHex(keys.bytes.subarray(i * 36, i * 36 + 36)), reason]);
    });
    await bench.mustStore(numbers(8));
    await bench.mustStore(numbers(8, 100));
    await store.settled();
    expect(heard).toEqual([]); // the slow tier has them
    await bench.mustStore(numbers(8, 200));
    await store.settled();
    expect(heard.length).toBe(8);
    for (const [, reason] of heard) expect(reason).toBe("evicted");
    const states = await bench.lookup([...numbers(8), ...numbers(8, 100), ...numbers(8, 200)]);
    expect([...states].filter((state) => state === MISS).length).toBe(8);
  });
});

describe("lookups", () => {
  it("are answered in one turn where the map knows every tier", async () => {
    const { bench } = await open([{}, {}]);
    await bench.mustStore([1, 2]);
    expect([...(bench.backend.lookupNow(bench.keys([1, 2, 3])) ?? [])]).toEqual([HIT, HIT, MISS]);
  });

  it("ask a shared tier for what others may have stored there, and remember it", async () => {
    const { bench, store, tiers } = await open([{}, {}], { shared: true });
    const shared = tiers[1] as FaultyBackend;
    await shared.store(bench.filled([7]));
    expect([...(await bench.lookup([7, 8]))]).toEqual([HIT, MISS]);
    expect(store.tierStatus().map(({ isExact }) => isExact)).toEqual([true, false]);
    await bench.mustLoad([7]);
  });

  it("find what tiers held before", async () => {
    const storage = createMemoryStorage();
    const make = () => new TieredStore({ tiers: [{ name: "kept", backend: new MemoryBackend({ storage }) }] });
    const first = await openBench(make(), { blockBytes: BLOCK_BYTES });
    await first.mustStore(numbers(3000));
    await first.backend.close();
    const again = make();
    await again.open({ namespace: first.namespace, keyBytes: first.keyBytes, blockBytes: BLOCK_BYTES });
    expect([...(await again.lookup(first.keys([0, 2999, 5000])))]).toEqual([HIT, HIT, MISS]);
    await again.settled();
    expect(again.tierStatus()[0]?.isExact).toBe(true);
    expect([...(again.lookupNow(first.keys([0, 2999, 5000])) ?? [])]).toEqual([HIT, HIT, MISS]);
    await again.close();
  });
});

describe("a missing block", () => {
  it("has one of seven reasons", async () => {
    const clock = new TestClock();
    const { bench, store, tiers } = await open([{ capacityBytes: 4 * BLOCK_BYTES, policy: "lru" }], { clock });
    const [tier] = tiers as [FaultyBackend];
    const reasons = store.missReasons();
    const counted = (): Record<string, number> =>
      Object.fromEntries(Object.entries(reasons.counts()).filter(([, count]) => count > 0));
    await bench.lookup([1]);
    expect(counted()).toEqual({ never_stored: 1 });
    await bench.mustStore(numbers(4, 10));
    await bench.mustStore([20]);
    await bench.lookup([13]);
    expect(counted()).toEqual({ never_stored: 1, evicted: 1 });
    tier.fail("store", "BUSY", { outcome: Outcome.DROPPED, times: 1 });
    await bench.store([30]);
    await bench.lookup([30]);
    expect(counted()).toMatchObject({ dropped: 1 });
    tier.fail("load", "CORRUPT", { outcome: Outcome.CORRUPT, times: 1 });
    await bench.load([20]);
    expect(counted()).toMatchObject({ corrupt: 1 });
    tier.fail("load", "DEADLINE", { times: 1 });
    await bench.load([10]);
    expect(counted()).toMatchObject({ timed_out: 1 });
    tier.fail("load", "NAMESPACE_MISMATCH", { outcome: Outcome.MISS, times: 1 });
    await bench.load([10]);
    expect(counted()).toMatchObject({ identity_mismatch: 1 });
    tier.fail("load", "UNAVAILABLE", { times: 1 });
    await bench.load([11]);
    expect(counted()).toMatchObject({ tier_down: 1 });
  });

  it("is told to the sink as a counter", async () => {
    const told = new Map<string, number>();
    const sink = {
      count(name: string, labels: object, value: number) {
        const id = [name, ...Object.values(labels)].join(" ");
        told.set(id, (told.get(id) ?? 0) + value);
      },
      observe() {},
      gauge() {},
    };
    const { bench, store } = await open([{ write: "none" }, {}], { sink });
    await bench.lookup([1, 2]);
    await bench.mustStore([3]);
    await bench.mustLoad([3]);
    await store.close();
    expect(Object.fromEntries(told)).toEqual({
      "kvferry_misses_total never_stored": 2,
      "kvferry_tier_hits_total tier1": 1,
      "kvferry_tier_moved_blocks_total tier0 promotion done": 1,
    });
  });
});

describe("the store's own terms", () => {
  it("promise what its tiers keep", () => {
    const storage = createMemoryStorage();
    const capabilities = (slow: Partial<TierOptions>) =>
      new TieredStore({
        tiers: [
          { name: "fast", backend: new MemoryBackend() },
          { name: "slow", backend: new MemoryBackend({ storage }), ...slow },
        ],
      }).manifest.capabilities;
    expect(capabilities({})).toMatchObject({ durable: true, scan: true, abandonable: true, verifiesPayload: false });
    expect(capabilities({ write: "back" })).toMatchObject({ durable: false });
  });

  it("are refused by the name of the field that is wrong", () => {
    const tier = (more: Partial<TierOptions> = {}): TierOptions => ({
      name: "a",
      backend: new MemoryBackend(),
      ...more,
    });
    const wrong: [TieredStoreOptions, string][] = [
      [{ tiers: [] }, "tiers"],
      [{ tiers: [tier(), tier()] }, "tiers[1].name"],
      [{ tiers: [tier({ write: "none" })] }, "tiers"],
      [{ tiers: [tier({ capacityBytes: -1 })] }, "tiers[0].capacityBytes"],
      [{ tiers: [tier({ policy: "lru" })] }, "tiers[0].policy"],
      [{ tiers: [tier({ capacityBytes: 1, policy: "best" })] }, "policy"],
      [{ tiers: [tier()], drainMs: -1 }, "drainMs"],
    ];
    for (const [options, field] of wrong) {
      expect(() => new TieredStore(options)).toThrow(
        expect.objectContaining({ code: "CONFIG_INVALID", context: { field } }) as never,
      );
    }
  });

  it("include that close waits for what is being written back", async () => {
    const storage = createMemoryStorage();
    const slow = new FaultyBackend(new MemoryBackend({ storage }));
    const store = new TieredStore({
      tiers: [
        { name: "fast", backend: new MemoryBackend() },
        { name: "slow", backend: slow, write: "back" },
      ],
    });
    const bench = await openBench(store, { blockBytes: BLOCK_BYTES });
    slow.delay("store", 10);
    await bench.mustStore(numbers(5));
    await store.close();
    expect(storage.get(bench.namespace.digestHex)?.blocks.size).toBe(5);
  });
});

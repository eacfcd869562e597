import type { Presence } from "@kvferry/backend-posix";
import { type KeyBatch, KeySet, keyAt, packKeys } from "@kvferry/core";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { LeafFinder } from "../src/leaf-finder.js";
import { ModelClient, ModelServer } from "./nfs-model.js";

const KEY_BYTES = 8;
const TTL_MS = 1000;
const TICK_MS = 10;

beforeEach(() => vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance", "Date"] }));
afterEach(() => vi.useRealTimers());

/** Key `number` of one of four folders. */
function key(number: number): Uint8Array {
  return Uint8Array.of(number % 4, number >> 8, number, 1, 0, 0, 0, 0);
}

const keysOf = (...numbers: number[]): KeyBatch => packKeys(numbers.map(key), KEY_BYTES);

/** What the finder uses of the presence index. */
function presence(): Presence {
  const present = new KeySet(KEY_BYTES);
  const addAll = (keys: KeyBatch): void => {
    for (let i = 0; i < keys.count; i++) present.add(keyAt(keys, i));
  };
  return { removals: 0, has: (each: Uint8Array) => present.has(each), addAll } as unknown as Presence;
}

function node(server: ModelServer, touchDelayMs = 100) {
  const client = new ModelClient(server, KEY_BYTES);
  const nowMs = (): number => performance.now();
  const options = { layout: "kvferry", files: client, negativeTtlMs: TTL_MS, touchDelayMs, nowMs } as const;
  const finder = new LeafFinder({ ...options, presence: presence() });
  return {
    client,
    finder,
    store(number: number): void {
      client.store(key(number));
      finder.noteStored(keysOf(number));
    },
    find: async (...numbers: number[]): Promise<number[]> => [...(await finder.find(keysOf(...numbers), undefined))],
  };
}

const makeServer = (): ModelServer => new ModelServer(TICK_MS, () => performance.now());
const pass = (ms: number): Promise<unknown> => vi.advanceTimersByTimeAsync(ms);

type Step = {
  readonly kind: "store" | "find";
  readonly node: number;
  readonly numbers: number[];
  readonly waitMs: number;
};

const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom("store" as const, "find" as const),
  node: fc.nat(1),
  numbers: fc.uniqueArray(fc.nat(23), { minLength: 1, maxLength: 12 }),
  waitMs: fc.oneof(fc.constant(0), fc.nat(15), fc.nat(700)),
});

/** Nodes 0 and 1 store, nodes 2 and 3 look, as the steps say. `TTL_MS` after the last step, the latter are asked for all that was stored; as all the
 * time for what was stored so long ago. Returns what one of them misses. */
async function missedAfter(steps: readonly Step[], touchDelayMs?: number): Promise<number[]> {
  const server = makeServer();
  const storing = [node(server, touchDelayMs), node(server, touchDelayMs)];
  const looking = [node(server), node(server)];
  const stored = new Map<number, number>();
  for (const { kind, node: who, numbers, waitMs } of steps) {
    if (kind === "store") {
      for (const number of numbers) if (!stored.has(number)) storing[who]?.store(number);
      for (const number of numbers) if (!stored.has(number)) stored.set(number, performance.now());
    } else {
      const startedMs = performance.now();
      const found = (await looking[who]?.find(...numbers)) ?? [];
      const due = numbers.filter((number) => startedMs - (stored.get(number) ?? Number.NaN) >= TTL_MS);
      const missed = due.filter((number) => found[numbers.indexOf(number)] !== 1);
      if (missed.length > 0) return missed;
    }
    await pass(waitMs);
  }
  await pass(TTL_MS);
  const all = [...stored.keys()];
  const missed = new Set<number>();
  for (const each of looking) {
    const found = await each.find(...all);
    for (const [i, number] of all.entries()) if (found[i] !== 1) missed.add(number);
  }
  return [...missed];
}

describe("a block that another node has stored", () => {
  it("is found within negativeTtlMs, whatever was asked for before, at whatever moment", async () => {
    const property = fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
      expect(await missedAfter(steps)).toEqual([]);
    });
    await fc.assert(property, { numRuns: 400 });
  });

  it("would never be found, had it come in the tick of the last change, and nobody touched the folder later", async () => {
    const never = 1e9;
    const steps: Step[] = [
      { kind: "store", node: 0, numbers: [0], waitMs: 0 },
      { kind: "find", node: 0, numbers: [4], waitMs: 0 },
      { kind: "store", node: 0, numbers: [4], waitMs: 0 },
    ];
    expect(await missedAfter(steps, never)).toEqual([4]);
    expect(await missedAfter(steps)).toEqual([]);
  });
});

describe("a key that was missing once", () => {
  it("is asked for by a listing when its folder has changed, unless that is long: the kernel may have it for missing still", async () => {
    const server = makeServer();
    const [storing, looking] = [node(server), node(server)];
    await looking.find(4);
    await pass(TICK_MS);
    storing.store(8);
    await looking.find(0); // the kernel of this node has not seen the folder change, and will hold 0 for missing
    storing.store(0);
    await pass(TTL_MS);
    expect(await looking.find(0)).toEqual([1]);
    expect(looking.client.requests).toMatchObject({ listing: 1, lookup: 2 });
    storing.store(12);
    await pass(TTL_MS);
    expect(await looking.find(12)).toEqual([1]); // never asked for before
    expect(looking.client.requests).toMatchObject({ listing: 1, lookup: 3 });
  });
});

describe("a lookup", () => {
  it("costs a round trip a folder when nothing has changed, and none while the stamps are fresh", async () => {
    const server = makeServer();
    const { client, finder, find } = node(server);
    const numbers = Array.from({ length: 40 }, (_, i) => i);
    await find(...numbers);
    expect(client.requests).toMatchObject({ getattr: 4, listing: 4, lookup: 0 });
    await find(...numbers.map((number) => number + 100)); // never asked for: the listing has told
    expect(client.requests).toMatchObject({ getattr: 4, listing: 4, lookup: 0 });
    expect(finder.knowsMissing(keysOf(...numbers), [...numbers.keys()])).toBe(true);
    await pass(TTL_MS);
    expect(finder.knowsMissing(keysOf(...numbers), [...numbers.keys()])).toBe(false);
    await find(...numbers);
    expect(client.requests).toMatchObject({ getattr: 8, listing: 4, lookup: 0 });
  });

  it("is answered from memory while it is repeated: stamps are renewed before they are too old", async () => {
    const server = makeServer();
    const { client, finder, find } = node(server);
    const asked = keysOf(0, 1, 2, 3, 4);
    await find(0, 1, 2, 3, 4);
    for (let i = 0; i < 50; i++) {
      await pass(100);
      expect(finder.knowsMissing(asked, [0, 1, 2, 3, 4]), `after ${i} calls`).toBe(true);
    }
    expect(client.requests.getattr).toBeLessThan(4 * 22);
    expect(client.requests.lookup).toBe(5);
  });

  it("asks for few keys of a folder one by one, and for each once", async () => {
    const server = makeServer();
    const { client, find } = node(server);
    await find(0, 4, 8);
    await find(0, 4, 8);
    expect(client.requests).toMatchObject({ getattr: 1, listing: 0, lookup: 3 });
  });

  it("fails where the storage cannot tell, and takes nothing for missing", async () => {
    const server = makeServer();
    const { client, find, store } = node(server);
    store(1);
    client.failing = 116;
    await expect(find(1)).rejects.toMatchObject({ code: "STALE", status: "temporary" });
    client.failing = 5;
    await expect(find(1)).rejects.toMatchObject({ code: "IO", status: "temporary" });
    client.failing = 0;
    expect(await find(1)).toEqual([1]);
  });
});

describe("a node that stores", () => {
  it("touches a folder twice for all blocks of a moment, and before it closes", async () => {
    const server = makeServer();
    const { client, finder, store } = node(server);
    for (let number = 0; number < 100; number++) store(number);
    await pass(99);
    expect(client.requests.touch).toBe(0);
    await pass(300);
    expect(client.requests.touch).toBe(8);
    store(100);
    const closed = finder.close();
    await pass(100);
    await closed;
    expect(client.requests.touch).toBe(9);
  });
});

import { expect, it } from "vitest";
import { type KeyBatch, keyHex } from "../../src/index.js";
import { LateStores } from "../../src/shared-capacity/late-stores.js";

const LATE_MS = 1000;
const keyOf = (id: number): Uint8Array => Uint8Array.of(0, 0, 0, 0, id);

function setUp() {
  const there = new Set<string>();
  const state = { nowMs: 0, asked: 0, settled: [] as number[] };
  const stores = new LateStores(5, {
    lateMs: LATE_MS,
    monotonicMs: () => state.nowMs,
    async exists(key) {
      state.asked++;
      return there.has(keyHex(key));
    },
    settle: (keys: KeyBatch) => void state.settled.push(keys.count),
  });
  return { stores, there, state };
}

it("holds the room of a store that was given up until it cannot take effect any more, and looks for it then", async () => {
  const { stores, there, state } = setUp();
  stores.add(keyOf(1));
  stores.add(keyOf(2));
  state.nowMs = LATE_MS - 1;
  expect(await stores.turn()).toBe(1);
  expect(state).toMatchObject({ asked: 0, settled: [] });
  there.add(keyHex(keyOf(2)));
  state.nowMs = LATE_MS;
  expect(await stores.turn()).toBe(Number.POSITIVE_INFINITY);
  expect(state.settled).toEqual([0, 1]);
});

it("holds the room of one block where one block was given up twice, from the last time on", async () => {
  const { stores, state } = setUp();
  stores.add(keyOf(1));
  state.nowMs = 500;
  stores.add(keyOf(1));
  expect(state.settled).toEqual([0]);
  state.nowMs = LATE_MS;
  expect(await stores.turn()).toBe(500);
  state.nowMs = LATE_MS + 500;
  await stores.turn();
  expect(state.settled).toEqual([0, 0]);
});

it("keeps the room of those it could not look for", async () => {
  const { stores, state } = setUp();
  stores.add(keyOf(1));
  expect(stores.giveUp()).toBe(1);
  state.nowMs = 2 * LATE_MS;
  expect(await stores.turn()).toBe(Number.POSITIVE_INFINITY);
  expect(state.settled).toEqual([]);
});

// A copy that ends early is of use only if what has arrived can be reached: parents first, and what is used first.
import type { ScanEntry } from "@kvferry/core";
import { describe, expect, it } from "vitest";
import { inCopyOrder } from "../src/maintenance/copy-order.js";

const HOUR_MS = 3_600_000;

function key(id: number): Uint8Array {
  return Uint8Array.of(id, 1, 2, 3, 4, 5);
}

function block(id: number, usedHour: number, facts: { storedHour?: number; parent?: number } = {}): ScanEntry {
  const { storedHour = usedHour, parent } = facts;
  const times = { storedAtMs: storedHour * HOUR_MS, usedAtMs: usedHour * HOUR_MS };
  return { key: key(id), bytes: 1, ...times, parent: parent === undefined ? undefined : key(parent) };
}

function order(entries: readonly ScanEntry[], runBlocksMax = 8): number[][] {
  return inCopyOrder(entries, runBlocksMax).map((run) => run.map(([id]) => id as number));
}

describe("the order of a copy", () => {
  it("begins with what was used last", () => {
    expect(order([block(1, 5), block(2, 9), block(3, 7)])).toEqual([[2], [3], [1]]);
  });

  it("has the older first of blocks used at one time, for chains are stored from their beginning", () => {
    const stored = [block(1, 9, { storedHour: 3 }), block(2, 9, { storedHour: 1 }), block(3, 9, { storedHour: 2 })];
    expect(order(stored)).toEqual([[2], [3], [1]]);
  });

  it("never has a block before its parents, however long nobody has asked for those", () => {
    const cold = [block(1, 1), block(2, 2, { parent: 1 }), block(3, 9, { parent: 2 }), block(4, 5, { parent: 2 })];
    expect(order(cold)).toEqual([[1, 2, 3], [4]]);
  });

  it("puts only what is known to follow one another into a run, and no more than fit", () => {
    const chain = [block(1, 3), block(2, 3, { parent: 1 }), block(3, 3, { parent: 2 }), block(9, 3)];
    expect(order(chain, 2)).toEqual([[1, 2], [3], [9]]);
    expect(order([block(1, 3), block(2, 3)])).toEqual([[1], [2]]);
  });

  it("has every block once, also with a parent that is not there and one that is its own ancestor", () => {
    const odd = [block(1, 3, { parent: 7 }), block(2, 4, { parent: 3 }), block(3, 5, { parent: 2 })];
    expect(order(odd).flat().sort()).toEqual([1, 2, 3]);
  });
});

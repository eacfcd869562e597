// What a server warms first: what is used most, from the beginning of its chain, within bounded memory.
import type { ScanEntry } from "@kvferry/core";
import { describe, expect, it } from "vitest";
import { Hottest } from "../src/warm/hottest.js";

const HOUR_MS = 3_600_000;
const NOW_MS = 1000 * HOUR_MS;

function key(id: number): Uint8Array {
  return Uint8Array.of(id, id >> 8, 2, 3, 4, 5);
}

function block(id: number, hoursAgo: number, parent?: number): ScanEntry {
  const at = NOW_MS - hoursAgo * HOUR_MS;
  return {
    key: key(id),
    bytes: 1,
    storedAtMs: at,
    usedAtMs: at,
    parent: parent === undefined ? undefined : key(parent),
  };
}

function idsOf(hottest: Hottest): number[] {
  return [...hottest.inOrder()].map(({ key: [low = 0, high = 0] }) => low + high * 256);
}

function hottestOf(blocksMax: number, entries: readonly ScanEntry[]): Hottest {
  const hottest = new Hottest(blocksMax, NOW_MS);
  for (const entry of entries) hottest.add(0, entry);
  return hottest;
}

describe("the hottest blocks", () => {
  it("come in the order of their last use, of all namespaces together", () => {
    const hottest = new Hottest(10, NOW_MS);
    hottest.add(0, block(1, 50));
    hottest.add(1, block(2, 1));
    hottest.add(0, block(3, 5));
    expect([...hottest.inOrder()].map(({ source }) => source)).toEqual([1, 0, 0]);
    expect(idsOf(hottestOf(10, [block(1, 50), block(2, 1), block(3, 5)]))).toEqual([2, 3, 1]);
  });

  it("come after their parents, however long nobody has asked for those", () => {
    const chain = [block(1, 90), block(2, 80, 1), block(3, 1, 2), block(4, 40)];
    expect(idsOf(hottestOf(10, chain))).toEqual([1, 2, 3, 4]);
  });

  it("are as many as memory was given for, and the colder ones are counted", () => {
    const hottest = hottestOf(
      100,
      Array.from({ length: 1000 }, (_, i) => block(i, ((i * 7) % 1000) + 1)),
    );
    const hours = idsOf(hottest).map((id) => ((id * 7) % 1000) + 1);
    expect(hours).toHaveLength(100);
    expect(Math.max(...hours)).toBeLessThanOrEqual(105); // ages that differ by less than a twentieth are the same
    expect(hottest.leftOut).toBe(900);
  });

  it("are there once, as hot as the tier says that saw them last", () => {
    const hottest = new Hottest(10, NOW_MS);
    expect([block(1, 50), block(2, 20), block(1, 2), block(2, 30)].map((entry) => hottest.add(0, entry))).toEqual([
      true,
      true,
      false,
      false,
    ]);
    expect(idsOf(hottest)).toEqual([1, 2]);
  });

  it("are there once also where a block is its own ancestor", () => {
    expect(idsOf(hottestOf(10, [block(1, 1, 2), block(2, 1, 1)])).sort()).toEqual([1, 2]);
  });
});

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { NO_ROW, PrefixIndex, packKeys } from "../../src/index.js";
import { keyOf, operation, Pair } from "./operations.js";

const refused = expect.objectContaining({ code: "INVALID_ARGUMENT" });

/** A chain of `length` keys of one group, from `first` on. */
function chain(first: number, length: number): ReturnType<typeof packKeys> {
  return packKeys(
    Array.from({ length }, (_, i) => keyOf(first + i, 36, 0)),
    36,
  );
}

function insert(index: PrefixIndex, keys: ReturnType<typeof packKeys>): Int32Array {
  const rows = new Int32Array(keys.count);
  index.insert(keys, { tier: 1, bytes: 4096, nowMs: 0 }, rows);
  return rows;
}

describe("a prefix index", () => {
  it("does what maps by key would do", () => {
    fc.assert(
      fc.property(
        fc.constantFrom(5, 6, 7, 8, 9, 36, 128),
        fc.array(operation, { maxLength: 120, size: "max" }),
        (keyBytes, list) => {
          const pair = new Pair(new PrefixIndex({ keyBytes }));
          for (const [i, each] of list.entries()) {
            pair.apply(each);
            if (i % 8 === 0) pair.check();
          }
          pair.check();
        },
      ),
      { numRuns: process.env.KVFERRY_LONG ? 5000 : 150 },
    );
  }, 600_000);

  it("finds a request's longest prefix, in the tiers that are asked for", () => {
    const index = new PrefixIndex({ keyBytes: 36 });
    const keys = chain(0, 20_000);
    const rows = insert(index, keys);
    expect(index.longestPrefix(keys)).toBe(20_000);
    expect(index.longestPrefix(keys, 2)).toBe(0);
    for (const row of rows.subarray(0, 300)) index.addTier(row, 2);
    expect(index.longestPrefix(keys, 2)).toBe(300);
    index.delete(rows[290] as number);
    expect(index.longestPrefix(keys, 2)).toBe(290);
    expect(index.longestPrefix(keys)).toBe(290);
  });

  it("takes children back whose parent was removed and stored again", () => {
    const index = new PrefixIndex({ keyBytes: 36 });
    const rows = insert(index, chain(0, 10));
    for (const at of [3, 4, 5]) index.delete(rows[at] as number);
    expect([...index.orphans()]).toEqual([rows[6]]);
    expect(index.parent(rows[6] as number)).toBe(NO_ROW);
    const again = insert(index, chain(0, 6));
    expect([...index.orphans()]).toEqual([]);
    expect(index.parent(rows[6] as number)).toBe(again[5]);
    expect(index.children(again[5] as number)).toBe(1);
  });

  it("uses the rows of removed blocks again, and holds what it held at any size", () => {
    const index = new PrefixIndex({ keyBytes: 36 });
    const count = 100_000;
    for (let round = 0; round < 4; round++) {
      const rows = insert(index, chain(round * count, count));
      expect(index.findMany(chain(round * count, count), rows)).toBe(count);
      for (let i = count - 1; i >= 0; i--) index.delete(rows[i] as number); // leaves first
      expect(index.size).toBe(0);
    }
    expect(index.rowLimit).toBe(count);
    // root first: each block waits for its child to go
    const rows = insert(index, chain(0, count));
    for (const row of rows) index.delete(row);
    expect(index.findMany(chain(0, count), rows)).toBe(0);
    insert(index, chain(count, count));
    expect(index.rowLimit).toBe(count);
  });

  it("keeps count of a prompt that everyone shares", () => {
    const index = new PrefixIndex({ keyBytes: 36 });
    const parent = insert(index, chain(0, 1))[0] as number;
    const rows = new Int32Array(70_000);
    for (let i = 0; i < rows.length; i++) {
      const row = new Int32Array(1);
      index.insert(chain(1 + i, 1), { tier: 1, bytes: 1, nowMs: 0, parent }, row);
      rows[i] = row[0] as number;
    }
    expect(index.children(parent)).toBe(70_000);
    for (const row of rows.subarray(0, 5000)) index.delete(row);
    expect(index.children(parent)).toBe(65_000);
    index.delete(parent);
    expect([...index.orphans()].length).toBe(65_000);
    for (const row of rows.subarray(5000)) index.delete(row);
    expect(index.size).toBe(0);
    expect(index.find(keyOf(0, 36, 0))).toBe(NO_ROW);
  });

  it("lets no client close a ring", () => {
    const index = new PrefixIndex({ keyBytes: 36 });
    const [a, b, c] = [keyOf(1, 36, 0), keyOf(2, 36, 0), keyOf(3, 36, 0)];
    insert(index, packKeys([a, b, a, c, b, a, a, c]));
    const rows = [a, b, c].map((key) => index.find(key));
    const children = rows.map((row) => index.children(row));
    expect(children.reduce((sum, each) => sum + each)).toBe(2);
    for (const start of rows) {
      let steps = 0;
      for (let row = start; row !== NO_ROW; row = index.parent(row)) expect(++steps).toBeLessThan(4);
    }
  });

  it("bounds the time in which a client can have it walk up chains", () => {
    const index = new PrefixIndex({ keyBytes: 36 });
    const long = insert(index, chain(0, 50_000));
    const heads = insert(index, packKeys(Array.from({ length: 2000 }, (_, i) => keyOf(100_000 + i, 36, 10 + i))));
    for (const [i, parent] of heads.entries()) {
      index.insert(packKeys([keyOf(200_000 + i, 36, 10)]), { tier: 1, bytes: 1, nowMs: 0, parent }, new Int32Array(1));
    }
    // every head with a child is said to follow the end of the long chain: none of the first can be proven within the steps allowed
    const parent = long[49_999] as number;
    for (const head of heads) {
      index.insert(index.keysOf([head]), { tier: 1, bytes: 1, nowMs: 0, parent }, new Int32Array(1));
    }
    expect(index.children(parent)).toBe(0);
  });

  it("tells groups apart that come interleaved", () => {
    const index = new PrefixIndex({ keyBytes: 36 });
    const keys = Array.from({ length: 300 }, (_, i) => keyOf(i >> 1, 36, i & 1));
    const rows = insert(index, packKeys(keys));
    for (let i = 2; i < 300; i++) expect(index.parent(rows[i] as number)).toBe(rows[i - 2]);
    expect(index.parent(rows[1] as number)).toBe(NO_ROW);
    // more groups than it keeps apart: links are left out, nothing is mixed up
    const many = insert(index, packKeys(Array.from({ length: 400 }, (_, i) => keyOf(1000 + (i % 200), 36, i % 200))));
    for (const row of many) expect(index.parent(row)).toBe(NO_ROW);
  });

  it("learns the order of what it got without from lookups", () => {
    const index = new PrefixIndex({ keyBytes: 36 });
    const keys = chain(0, 50);
    for (let i = 0; i < 50; i++) if (i !== 20) insert(index, chain(i, 1));
    const rows = new Int32Array(50);
    index.findMany(keys, rows);
    index.observe(keys, rows);
    expect(index.parent(rows[19] as number)).toBe(rows[18]);
    expect(index.parent(rows[21] as number)).toBe(NO_ROW); // the block between them is not known
    expect(index.parent(rows[22] as number)).toBe(rows[21]);
  });

  it("answers batches that lie at any address", () => {
    const index = new PrefixIndex({ keyBytes: 36 });
    insert(index, chain(0, 25));
    for (const offset of [0, 1, 2, 3, 4]) {
      const bytes = new Uint8Array(offset + 50 * 36).subarray(offset);
      bytes.set(chain(0, 50).bytes);
      expect(index.longestPrefix({ bytes, stride: 36, count: 50 })).toBe(25);
      expect(index.findMany({ bytes, stride: 36, count: 50 }, new Int32Array(50))).toBe(25);
    }
  });

  it("takes at most 64 bytes a block", () => {
    const index = new PrefixIndex({ keyBytes: 36 });
    let worst = 0;
    for (let first = 0; first < 1_300_000; first += 4096) {
      insert(index, chain(first, 4096));
      if (first > 400_000) worst = Math.max(worst, index.memoryBytes / index.size);
    }
    expect(worst).toBeLessThanOrEqual(64);
    expect(worst).toBeGreaterThan(52); // what records take alone
    for (let expectedBlocks = 500_000; expectedBlocks < 1_000_000; expectedBlocks += 5000) {
      const table = new PrefixIndex({ keyBytes: 36, expectedBlocks }).memoryBytes;
      expect(52 + table / expectedBlocks).toBeLessThanOrEqual(64);
    }
  }, 60_000);

  it("refuses what makes no sense", () => {
    const index = new PrefixIndex({ keyBytes: 36, expectedBlocks: 10_000 });
    const row = insert(index, chain(0, 1))[0] as number;
    const facts = { tier: 1, bytes: 1, nowMs: 0 };
    const one = new Int32Array(1);
    for (const call of [
      () => new PrefixIndex({ keyBytes: 4 }),
      () => index.find(new Uint8Array(35)),
      () => index.findMany(packKeys([new Uint8Array(35)]), one),
      () => index.findMany(chain(0, 2), one),
      () => index.longestPrefix(packKeys([new Uint8Array(37)])),
      () => index.longestPrefix({ bytes: new Uint8Array(36), stride: 36, count: 2 }),
      () => index.observe(chain(0, 1), Int32Array.of(99)),
      () => index.insert(chain(0, 2), facts, one),
      () => index.insert(chain(0, 1), { ...facts, tier: 0 }, one),
      () => index.insert(chain(0, 1), { ...facts, tier: 256 }, one),
      () => index.insert(chain(0, 1), { ...facts, bytes: -1 }, one),
      () => index.insert(chain(0, 1), { ...facts, bytes: 2 ** 32 }, one),
      () => index.insert(chain(0, 1), { ...facts, nowMs: Number.NaN }, one),
      () => index.insert(chain(0, 1), { ...facts, parent: 99 }, one),
      () => index.addTier(row, 0),
      () => index.dropTier(99, 1),
      () => index.tiers(-1),
      () => index.copyKey(row, new Uint8Array(36), 1),
    ]) {
      expect(call).toThrow(refused);
    }
    index.delete(row);
    expect(() => index.delete(row)).toThrow(refused);
    expect(() => index.addTier(row, 1)).toThrow(refused);
    index.touch(Int32Array.of(row, NO_ROW, 99), 5); // rows of a lookup some time ago
    expect(index.tiers(row)).toBe(0);
  });
});

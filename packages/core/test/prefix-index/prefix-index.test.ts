import { describe, expect, it } from "vitest";
import { NO_ROW, PrefixIndex, packKeys } from "../../src/index.js";

function keyOf(id: number, group: number = 0): Uint8Array {
  const key = new Uint8Array(36);
  const view = new DataView(key.buffer);
  view.setUint32(0, id);
  view.setUint32(32, group);
  return key;
}

describe("a prefix index", () => {
  it("finds what was inserted, along its chain", () => {
    const index = new PrefixIndex({ keyBytes: 36 });
    const keys = packKeys(Array.from({ length: 20_000 }, (_, id) => keyOf(id)));
    const rows = new Int32Array(keys.count);
    expect(index.insert(keys, { tier: 1, bytes: 4096, nowMs: 1000 }, rows)).toBe(20_000);
    expect(index.insert(keys, { tier: 2, bytes: 4096, nowMs: 2000 }, rows)).toBe(0);
    expect(index.size).toBe(20_000);
    expect(index.longestPrefix(keys)).toBe(20_000);
    expect(index.longestPrefix(keys, 4)).toBe(0);
    expect(index.find(keyOf(20_000))).toBe(NO_ROW);
    expect(index.parent(rows[0] as number)).toBe(NO_ROW);
    expect(index.parent(rows[19_999] as number)).toBe(rows[19_998]);
    expect(index.children(rows[5] as number)).toBe(1);
    for (const row of rows.subarray(5, 10)) index.delete(row);
    expect(index.longestPrefix(keys)).toBe(5);
    expect(index.isOrphan(rows[10] as number)).toBe(true);
    expect([...index.orphans()]).toEqual([rows[10]]);
    const again = new Int32Array(1);
    index.insert(packKeys([keyOf(9)]), { tier: 1, bytes: 1, nowMs: 1, parent: rows[4] as number }, again);
    expect(index.parent(rows[10] as number)).toBe(again[0]);
    expect(index.parent(again[0] as number)).toBe(rows[4]);
    expect(index.size).toBe(19_996);
  });
});

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { KeySet, keyHex, packKeys } from "../src/index.js";

/** Few different keys, so that they meet; of lengths that are and are not whole words. */
const steps = fc.constantFrom(5, 6, 7, 8, 20, 36, 128).chain((keyBytes) =>
  fc.record({
    keyBytes: fc.constant(keyBytes),
    steps: fc.array(
      fc.record({
        what: fc.constantFrom("add", "add", "add", "delete", "has", "clear" as const),
        id: fc.nat(200),
      }),
      { maxLength: 600, size: "max" },
    ),
  }),
);

function keyOf(id: number, keyBytes: number): Uint8Array {
  const key = new Uint8Array(keyBytes);
  key[0] = id & 0xff;
  key[keyBytes - 1] = id >> 8;
  return key;
}

describe("a key set", () => {
  it("does what a Set of the keys' hex does", () => {
    fc.assert(
      fc.property(steps, ({ keyBytes, steps: list }) => {
        const set = new KeySet(keyBytes);
        const model = new Set<string>();
        const answers: unknown[] = [];
        const expected: unknown[] = [];
        for (const { what, id } of list) {
          const key = keyOf(id, keyBytes);
          const hex = keyHex(key);
          if (what === "add") {
            answers.push(set.add(key));
            expected.push(!model.has(hex));
            model.add(hex);
          } else if (what === "delete") {
            answers.push(set.delete(key));
            expected.push(model.delete(hex));
          } else if (what === "has") {
            answers.push(set.has(key));
            expected.push(model.has(hex));
          } else if (id < 3) {
            set.clear();
            model.clear();
          }
          answers.push(set.size);
          expected.push(model.size);
        }
        expect(answers).toEqual(expected);
        const all = Array.from({ length: 201 }, (_, id) => keyOf(id, keyBytes));
        const out = new Uint8Array(201);
        expect(set.hasMany(packKeys(all), out)).toBe(model.size);
        expect([...out]).toEqual(all.map((key) => Number(model.has(keyHex(key)))));
      }),
    );
  }, 30_000);

  it("answers batches that lie at any address", () => {
    const set = new KeySet(36);
    const keys = Array.from({ length: 50 }, (_, id) => keyOf(id, 36));
    for (const key of keys.slice(0, 25)) set.add(key);
    for (const offset of [0, 1, 2, 3, 4]) {
      const bytes = new Uint8Array(offset + 50 * 36).subarray(offset);
      bytes.set(packKeys(keys).bytes);
      expect(set.hasMany({ bytes, stride: 36, count: 50 }, new Uint8Array(50))).toBe(25);
    }
  });

  it("keeps its own copy of a key", () => {
    const set = new KeySet(8);
    const key = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);
    set.add(key);
    key.fill(0);
    expect(set.has(Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8))).toBe(true);
    expect(set.has(key)).toBe(false);
  });

  it("does not take a key for another with the same hash", () => {
    // among so many pairs of 32-bit hashes about twenty are equal
    const count = 300_000;
    const bytes = new Uint8Array(2 * count * 8);
    const words = new Uint32Array(bytes.buffer);
    for (let i = 0; i < 2 * count; i++) {
      words[2 * i] = i;
      words[2 * i + 1] = Math.imul(i, i) ^ 0x5bd1e995; // both words differ: a hash of one word would have no two alike
    }
    const set = new KeySet(8, count);
    for (let i = 0; i < count; i++) set.add(bytes.subarray(i * 8, i * 8 + 8));
    expect(set.size).toBe(count);
    const others = { bytes: bytes.subarray(count * 8), stride: 8, count };
    expect(set.hasMany(others, new Uint8Array(count))).toBe(0);
  });

  it("takes a word and the key's own bytes a place, and gives memory back", () => {
    const set = new KeySet(36, 3000);
    const before = set.memoryBytes;
    expect(before).toBe(4096 * 40);
    for (let id = 0; id < 3000; id++) set.add(keyOf(id, 36));
    expect(set.memoryBytes).toBe(before);
    for (let id = 3000; id < 3100; id++) set.add(keyOf(id, 36));
    expect(set.memoryBytes).toBe(2 * before);
    set.clear();
    expect(set.memoryBytes).toBe(16 * 40);
    expect(set.has(keyOf(1, 36))).toBe(false);
  });

  it("refuses keys of another length", () => {
    const set = new KeySet(36);
    const refused = expect.objectContaining({ code: "INVALID_ARGUMENT" });
    for (const call of [
      () => set.add(new Uint8Array(35)),
      () => set.has(new Uint8Array(37)),
      () => set.delete(new Uint8Array(0)),
      () => set.hasMany(packKeys([new Uint8Array(35)]), new Uint8Array(1)),
      () => set.hasMany(packKeys([new Uint8Array(36)]), new Uint8Array(0)),
      () => new KeySet(4),
    ]) {
      expect(call).toThrow(refused);
    }
  });
});

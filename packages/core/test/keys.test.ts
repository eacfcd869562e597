import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type KvferryError, keyAt, keyGroup, keyHex, packedKeys, packKeys, selectKeys } from "../src/index.js";

const listOfKeys = fc.integer({ min: 5, max: 128 }).chain((stride) =>
  fc.record({
    stride: fc.constant(stride),
    keys: fc.array(fc.uint8Array({ minLength: stride, maxLength: stride }), { maxLength: 40, size: "max" }),
  }),
);

describe("packed keys", { timeout: 30_000 }, () => {
  it("give back each key as it was packed", () => {
    fc.assert(
      fc.property(listOfKeys, ({ stride, keys }) => {
        const packed = packKeys(keys, stride);
        expect(packed.count).toBe(keys.length);
        expect(keys.map((_, i) => keyHex(keyAt(packed, i)))).toEqual(keys.map(keyHex));
        expect(packedKeys(packed.bytes, stride)).toEqual(packed);
      }),
    );
  });

  it("select any keys in any order, as copies", () => {
    const withPositions = listOfKeys
      .filter(({ keys }) => keys.length > 0)
      .chain((list) =>
        fc.record({ list: fc.constant(list), positions: fc.array(fc.nat(list.keys.length - 1), { maxLength: 60 }) }),
      );
    fc.assert(
      fc.property(withPositions, ({ list: { keys, stride }, positions }) => {
        const packed = packKeys(keys, stride);
        const selected = selectKeys(packed, positions);
        packed.bytes.fill(0);
        expect(selected.count).toBe(positions.length);
        expect(positions.map((_, i) => keyHex(keyAt(selected, i)))).toEqual(
          positions.map((position) => keyHex(keys[position] as Uint8Array)),
        );
      }),
    );
  });

  it("refuse keys of different lengths and bytes that are no whole keys", () => {
    const refused = (call: () => unknown) =>
      expect(call).toThrow(expect.objectContaining({ code: "INVALID_ARGUMENT" }) as KvferryError);
    refused(() => packKeys([new Uint8Array(8), new Uint8Array(9)]));
    refused(() => packKeys([])); // no key to take the stride from
    refused(() => packedKeys(new Uint8Array(35), 36));
    for (const stride of [0, 4, 129, 5.5, Number.NaN]) refused(() => packedKeys(new Uint8Array(0), stride));
  });
});

describe("a key", () => {
  it("has its group in the last four bytes, big-endian", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 1, maxLength: 124 }),
        fc.integer({ min: 0, max: 0xffffffff }),
        (hash, group) => {
          const key = new Uint8Array(hash.length + 4);
          key.set(hash);
          key.set([group >>> 24, group >>> 16, group >>> 8, group], hash.length);
          expect(keyGroup(key)).toBe(group);
          expect(keyGroup(packKeys([key]).bytes)).toBe(group);
        },
      ),
    );
  });

  it("is written in lower-case hex, also as a view into other bytes", () => {
    const bytes = Uint8Array.of(9, 0, 0xab, 0xff, 1, 2, 9);
    expect(keyHex(bytes.subarray(1, 6))).toBe("00abff0102");
  });
});

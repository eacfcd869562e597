import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  crc32c,
  decodeFooter,
  encodeFooter,
  FOOTER_BYTES,
  type FooterFields,
  Outcome,
  paddedBytes,
  storedBlockBytes,
  verifyBlock,
} from "../src/index.js";

const digest = fc.uint8Array({ minLength: 32, maxLength: 32 });
const key = fc.uint8Array({ minLength: 5, maxLength: 128 });
const footer: fc.Arbitrary<FooterFields> = fc.record({
  payloadBytes: fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
  payloadChecksum: fc.integer({ min: 0, max: 0xffffffff }),
  storedAtMs: fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }),
  namespaceDigest: digest,
  key,
  writer: fc.string({ maxLength: 64, unit: "grapheme-ascii" }),
});
const block = fc.record({
  payload: fc.uint8Array({ minLength: 1, maxLength: 5000, size: "max" }),
  key,
  namespaceDigest: digest,
});
type Block = { payload: Uint8Array; key: Uint8Array; namespaceDigest: Uint8Array };

function stored({ payload, key: own, namespaceDigest }: Block): Uint8Array {
  const bytes = new Uint8Array(storedBlockBytes(payload.length));
  bytes.set(payload);
  const fields = {
    payloadBytes: payload.length,
    payloadChecksum: crc32c(payload),
    storedAtMs: 1,
    key: own,
    namespaceDigest,
    writer: "w",
  };
  encodeFooter(bytes.subarray(paddedBytes(payload.length)), fields);
  return bytes;
}

const expectedOf = ({ payload, ...rest }: Block) => ({ ...rest, blockBytes: payload.length });
/** A footer with one field changed and a checksum that fits. */
function rewritten(each: Block, change: (view: DataView) => void): Uint8Array {
  const bytes = stored(each);
  const view = new DataView(bytes.buffer, paddedBytes(each.payload.length), FOOTER_BYTES);
  change(view);
  view.setUint32(4092, crc32c(new Uint8Array(view.buffer, view.byteOffset, 4092)), true);
  return bytes;
}

describe("CRC-32C", { timeout: 30_000 }, () => {
  it("has the values that everyone agrees on", () => {
    expect(crc32c(Buffer.from("123456789"))).toBe(0xe3069283);
    // RFC 3720, B.4
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
    expect(crc32c(new Uint8Array(32).fill(0xff))).toBe(0x62a8ab43);
    expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e);
    expect(crc32c(new Uint8Array(0))).toBe(0);
  });

  it("does not depend on where the bytes lie", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200, size: "max" }), fc.integer({ min: 0, max: 9 }), (bytes, offset) => {
        const moved = new Uint8Array(offset + bytes.length);
        moved.set(bytes, offset);
        let slow = 0xffffffff;
        for (const byte of bytes) {
          slow ^= byte;
          for (let bit = 0; bit < 8; bit++) slow = slow & 1 ? (slow >>> 1) ^ 0x82f63b78 : slow >>> 1;
        }
        expect(crc32c(moved.subarray(offset))).toBe((slow ^ 0xffffffff) >>> 0);
      }),
    );
  });
});

describe("a footer", () => {
  it("is read as it was written", () => {
    fc.assert(
      fc.property(footer, (fields) => {
        const bytes = new Uint8Array(FOOTER_BYTES + 10).fill(0xee);
        encodeFooter(bytes, fields);
        expect(decodeFooter(bytes)).toEqual({ ...fields, formatVersion: 1, codec: 0, checksumKind: 1 });
        expect(bytes.subarray(FOOTER_BYTES)).toEqual(new Uint8Array(10).fill(0xee));
      }),
    );
  });

  it("lies byte for byte where docs/block-format.md says", () => {
    const bytes = new Uint8Array(FOOTER_BYTES).fill(0xee);
    const fields = {
      payloadBytes: 0x1_0000_0002,
      payloadChecksum: 0xe3069283,
      storedAtMs: 0x18f_0000_0001,
      writer: "host-1",
    };
    encodeFooter(bytes, {
      ...fields,
      namespaceDigest: new Uint8Array(32).fill(0xdd),
      key: Uint8Array.of(1, 2, 0, 0, 0, 3),
    });
    const hex = (from: number, length: number) => Buffer.from(bytes.subarray(from, from + length)).toString("hex");
    expect(hex(0, 8)).toBe("4b56464552525901");
    expect(hex(8, 8)).toBe("0100000000100000");
    expect(hex(16, 8)).toBe("0200000001000000");
    expect(hex(24, 8)).toBe("0000010006000000");
    expect(hex(32, 8)).toBe("839206e300000000");
    expect(hex(40, 8)).toBe("010000008f010000");
    expect(hex(48, 32)).toBe("dd".repeat(32));
    expect(hex(80, 8)).toBe("0102000000030000");
    expect(hex(208, 8)).toBe("686f73742d310000");
    expect(bytes.subarray(272, 4092).every((byte) => byte === 0)).toBe(true);
    expect(new DataView(bytes.buffer).getUint32(4092, true)).toBe(crc32c(bytes.subarray(0, 4092)));
  });

  it("cuts a writer's name that is too long, between characters", () => {
    const bytes = new Uint8Array(FOOTER_BYTES);
    const fields = {
      payloadBytes: 1,
      payloadChecksum: 0,
      storedAtMs: 0,
      namespaceDigest: new Uint8Array(32),
      key: new Uint8Array(5),
    };
    encodeFooter(bytes, { ...fields, writer: "ü".repeat(40) });
    expect(decodeFooter(bytes)?.writer).toBe("ü".repeat(32));
    encodeFooter(bytes, { ...fields, writer: `x${"ü".repeat(40)}` });
    expect(decodeFooter(bytes)?.writer).toBe(`x${"ü".repeat(31)}`);
  });
});

describe("a stored block", { timeout: 30_000 }, () => {
  it("is LOADED for its own key and namespace alone", () => {
    fc.assert(
      fc.property(block, (each) => {
        const expected = expectedOf(each);
        const bytes = stored(each);
        expect(verifyBlock(bytes, expected)).toEqual({ outcome: Outcome.LOADED });
        const otherKey = each.key.map((byte, i) => (i === 0 ? byte ^ 1 : byte));
        expect(verifyBlock(bytes, { ...expected, key: otherKey })).toEqual({
          outcome: Outcome.CORRUPT,
          code: "CORRUPT",
        });
        const namespaceDigest = each.namespaceDigest.map((byte) => ~byte & 0xff);
        const stranger = verifyBlock(bytes, { ...expected, namespaceDigest });
        expect(stranger).toEqual({ outcome: Outcome.MISS, code: "NAMESPACE_MISMATCH" });
      }),
    );
  });

  it("is never LOADED with any single bit flipped", () => {
    fc.assert(
      fc.property(block, fc.nat(), fc.integer({ min: 0, max: 7 }), (each, at, bit) => {
        const bytes = stored(each);
        const offset = at % bytes.length;
        bytes[offset] = (bytes[offset] as number) ^ (1 << bit);
        expect(verifyBlock(bytes, expectedOf(each))).toEqual({ outcome: Outcome.CORRUPT, code: "CORRUPT" });
      }),
      { numRuns: 300 },
    );
  });

  it("is never LOADED with a bit flipped, tried at every single place of a small one", () => {
    const each = {
      payload: Uint8Array.of(1, 2, 3),
      key: new Uint8Array(36).fill(7),
      namespaceDigest: new Uint8Array(32).fill(9),
    };
    const bytes = stored(each);
    const expected = expectedOf(each);
    for (let offset = 0; offset < bytes.length; offset++) {
      bytes[offset] = (bytes[offset] as number) ^ 0x10;
      if (verifyBlock(bytes, expected).outcome !== Outcome.CORRUPT) throw new Error(`a flip at ${offset} was not seen`);
      bytes[offset] = (bytes[offset] as number) ^ 0x10;
    }
    expect(verifyBlock(bytes, expected).outcome).toBe(Outcome.LOADED);
  });

  it("is CORRUPT when it is cut off anywhere", () => {
    fc.assert(
      fc.property(block, fc.nat(), (each, length) => {
        const bytes = stored(each);
        const cut = bytes.subarray(0, length % bytes.length);
        expect(verifyBlock(cut, expectedOf(each))).toEqual({ outcome: Outcome.CORRUPT, code: "CORRUPT" });
      }),
    );
  });

  it("is a MISS, not damage, when it is of a version, codec or checksum from the future", () => {
    const each = { payload: Uint8Array.of(1), key: new Uint8Array(5), namespaceDigest: new Uint8Array(32) };
    const futures = [
      rewritten(each, (view) => view.setUint32(8, 2, true)),
      rewritten(each, (view) => view.setUint16(24, 1, true)),
      rewritten(each, (view) => view.setUint16(26, 2, true)),
    ];
    for (const bytes of futures) {
      expect(verifyBlock(bytes, expectedOf(each))).toEqual({ outcome: Outcome.MISS, code: "UNSUPPORTED" });
    }
    const longer = rewritten(each, (view) => view.setUint32(16, 2, true));
    expect(verifyBlock(longer, expectedOf(each)).outcome).toBe(Outcome.CORRUPT);
  });

  it("has the sizes of docs/block-format.md", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 31 }), (blockBytes) => {
        expect(paddedBytes(blockBytes) % 4096).toBe(0);
        expect(paddedBytes(blockBytes) - blockBytes).toBeGreaterThanOrEqual(0);
        expect(paddedBytes(blockBytes) - blockBytes).toBeLessThan(4096);
        expect(storedBlockBytes(blockBytes)).toBe(paddedBytes(blockBytes) + 4096);
      }),
    );
  });
});

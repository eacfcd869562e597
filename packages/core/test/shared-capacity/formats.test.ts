import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { keyAt, packedKeys } from "../../src/index.js";
import {
  decodeGrant,
  decodeLease,
  decodeState,
  encodeDocument,
  type Grant,
  type MemberState,
} from "../../src/shared-capacity/documents.js";
import { decodeRecords, encodeRecords, type LogRecord, RecordKind } from "../../src/shared-capacity/log.js";
import { newestEpoch, parseName } from "../../src/shared-capacity/names.js";

const records: fc.Arbitrary<LogRecord> = fc
  .record({
    kind: fc.constantFrom(...Object.values(RecordKind)),
    folder: fc.string({ maxLength: 40 }),
    stride: fc.integer({ min: 5, max: 128 }),
    count: fc.integer({ min: 1, max: 20 }),
    fileBytes: fc.nat(),
    atMs: fc.nat(),
    seed: fc.nat(255),
  })
  .map(({ stride, count, seed, ...rest }) => {
    const bytes = Uint8Array.from({ length: stride * count }, (_, i) => (i * 31 + seed) & 0xff);
    return { ...rest, keys: packedKeys(bytes, stride) };
  });

const amounts = fc.record({ bytes: fc.nat(), files: fc.nat() });
const positions = fc.record({ file: fc.nat(), offset: fc.nat() });

const states: fc.Arbitrary<MemberState> = fc.record({
  beat: fc.nat(),
  closed: fc.boolean(),
  capacityBytes: fc.nat(),
  log: positions,
  accounts: fc.uniqueArray(
    fc.record({ tenant: fc.string(), accepted: amounts, stored: amounts, released: amounts, asked: amounts }),
    { selector: ({ tenant }) => tenant, maxLength: 5 },
  ),
});

function facts({ keys, ...rest }: LogRecord): object {
  return { ...rest, stride: keys.stride, keys: Buffer.from(keys.bytes).toString("hex") };
}

describe("a server's log", () => {
  it("is read as it was written, and a torn end as what came before it", () => {
    fc.assert(
      fc.property(fc.array(records, { maxLength: 6 }), fc.double({ min: 0, max: 1, noNaN: true }), (list, part) => {
        const whole = Buffer.concat(list.map(encodeRecords));
        const all = decodeRecords(whole);
        expect(all).toMatchObject({ length: whole.length, damaged: false });
        expect(all.records.map(facts)).toEqual(list.map(facts));
        const torn = decodeRecords(whole.subarray(0, Math.floor(part * whole.length)));
        expect(torn.damaged).toBe(false);
        expect(torn.records.map(facts)).toEqual(list.slice(0, torn.records.length).map(facts));
      }),
    );
  });

  it("never tells of what was not written, whichever byte is damaged", () => {
    fc.assert(
      fc.property(
        fc.array(records, { minLength: 1, maxLength: 4 }),
        fc.nat(),
        fc.integer({ min: 1, max: 255 }),
        (list, at, flip) => {
          const whole = Buffer.concat(list.map(encodeRecords));
          const place = at % whole.length;
          whole[place] = (whole[place] as number) ^ flip;
          const { records: found } = decodeRecords(whole);
          expect(found.length).toBeLessThan(list.length);
          expect(found.map(facts)).toEqual(list.slice(0, found.length).map(facts));
        },
      ),
    );
  });

  it("of random bytes is damage, or a start of something, and nothing worse", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        expect(decodeRecords(bytes).records).toEqual([]);
      }),
    );
  });

  it("splits a batch that is too long for one record", () => {
    const keys = packedKeys(
      new Uint8Array(36 * 10_000).map((_, i) => i & 0xff),
      36,
    );
    const { records: parts } = decodeRecords(
      encodeRecords({ kind: RecordKind.USED, folder: "f", keys, fileBytes: 0, atMs: 1 }),
    );
    expect(parts.length).toBeGreaterThan(1);
    const found = parts.flatMap((part) => Array.from({ length: part.keys.count }, (_, i) => keyAt(part.keys, i)));
    expect(Buffer.concat(found).equals(Buffer.from(keys.bytes))).toBe(true);
  });
});

describe("documents and names", () => {
  it("are read as they were written; with any damage they are none", () => {
    fc.assert(
      fc.property(states, fc.nat(), fc.integer({ min: 1, max: 255 }), (state, at, flip) => {
        const bytes = encodeDocument(state);
        expect(decodeState(bytes)).toEqual(state);
        expect(decodeState(bytes.subarray(0, at % bytes.length))).toBeUndefined();
        const place = at % bytes.length;
        bytes[place] = (bytes[place] as number) ^ flip;
        expect(decodeState(bytes)).toBeUndefined();
      }),
    );
  });

  it("are refused where a number is none or a tenant is there twice, even with a right checksum", () => {
    const grant: Grant = { read: { file: 0, offset: 0 }, accounts: [{ tenant: "a", granted: { bytes: 1, files: 1 } }] };
    expect(decodeGrant(encodeDocument(grant))).toEqual(grant);
    const twice = { ...grant, accounts: [...grant.accounts, ...grant.accounts] };
    const negative = { ...grant, accounts: [{ tenant: "a", granted: { bytes: -1, files: 1 } }] };
    for (const bad of [twice, negative]) expect(decodeGrant(encodeDocument(bad))).toBeUndefined();
    expect(decodeLease(encodeDocument(grant))).toBeUndefined();
  });

  it("of other people's files mean nothing", () => {
    fc.assert(fc.property(fc.string(), (name) => parseName(name) === undefined));
    expect(newestEpoch(["epoch-2", "epoch-10", "epoch-010", "epoch-", "epoch--1", "epoch-1e9", "x"])).toBe(10);
  });
});

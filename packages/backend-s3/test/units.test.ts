import { crc32c, createMemoryRegion, KvferryError, type LookupState, packKeys } from "@kvferry/core";
import { crc32c as nativeCrc } from "@kvferry/native";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { checksumHeader, combineChecksums, portableRunning } from "../src/checksum.js";
import { toS3Error } from "../src/errors.js";
import { S3Backend, type S3Config } from "../src/index.js";
import { KnownKeys } from "../src/known-keys.js";
import { LookupPlan } from "../src/lookup.js";
import { ObjectNames } from "../src/names.js";
import { partsOf, piecesBetween } from "../src/parts.js";
import { keyOf, keysOf, namespaceOf, textOf } from "./fixtures.js";

// What needs no server.

describe("s3 checksums", () => {
  it("of parts make that of the whole, by both implementations", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(300), (bytes, at) => {
        const [a, b] = [bytes.subarray(0, at), bytes.subarray(at)];
        const whole = crc32c(bytes);
        expect(combineChecksums(crc32c(a), crc32c(b), b.length)).toBe(whole);
        expect(portableRunning(b, portableRunning(a))).toBe(whole);
        expect(nativeCrc(b, nativeCrc(a))).toBe(whole);
      }),
    );
    const large = createMemoryRegion(1, 3_000_001).bytes.fill(7);
    const [a, b] = [large.subarray(0, 1_000_000), large.subarray(1_000_000)];
    expect(combineChecksums(crc32c(a), crc32c(b), b.length)).toBe(crc32c(large));
  });

  it("are written as S3 writes them", () => {
    expect(checksumHeader(0xe3069283)).toBe("4waSgw=="); // of "123456789"
    expect(checksumHeader(1)).toBe("AAAAAQ==");
  });
});

describe("s3 parts", () => {
  it("cover an object once and in order, and their pieces are its bytes", () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 4 }),
        fc.integer({ min: 1, max: 50 }),
        (pieces, partBytes) => {
          const whole = Buffer.concat(pieces);
          const parts = partsOf(whole.length, partBytes);
          const back = Buffer.concat(parts.flatMap((part) => piecesBetween(pieces, part)));
          expect(back.equals(whole)).toBe(true);
          expect(parts.every(({ from, to }) => to - from <= partBytes && to > from)).toBe(true);
        },
      ),
    );
  });
});

describe("s3 object names", () => {
  const names = new ObjectNames("a/b", namespaceOf("names"), 36);

  it("give the key back, and nothing else is taken for a block", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 36, maxLength: 36 }), (key) => {
        expect(Buffer.from(names.keyOf(names.block(key)) ?? []).equals(Buffer.from(key))).toBe(true);
        expect(new ObjectNames("a", namespaceOf("names"), 36).keyOf(names.block(key))).toBeUndefined();
        expect(new ObjectNames("a/b", namespaceOf("others"), 36).keyOf(names.block(key))).toBeUndefined();
        expect(new ObjectNames("a/b", namespaceOf("names"), 20).keyOf(names.block(key))).toBeUndefined();
        expect(names.keyOf(names.quarantined(key, 5))).toBeUndefined();
      }),
    );
    for (const name of [names.description, names.root, `${names.root}00/01${"0".repeat(70)}`, `${names.root}00/`]) {
      expect(names.keyOf(name)).toBeUndefined();
    }
  });
});

describe("s3 lookups", () => {
  /** Asks as the backend does, of a storage that has `there`; how many were asked for. */
  function lookup(
    keys: ReturnType<typeof packKeys>,
    there: ReadonlySet<number>,
    known: KnownKeys,
  ): [Uint8Array, number] {
    const plan = new LookupPlan(keys, known);
    let asked = 0;
    for (let ask = plan.next(); ask.length > 0; ask = plan.next()) {
      for (const i of ask) {
        asked++;
        if (there.has(i)) plan.states[i] = 1 satisfies LookupState;
        else known.noteMiss(keys.bytes.slice(i * keys.stride, (i + 1) * keys.stride));
      }
    }
    return [plan.states, asked];
  }

  const fresh = () => new KnownKeys(36, 1000, () => 0);

  it("find a whole prefix, never say HIT for what is not there, and ask for no key twice", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 600 }), fc.nat(600), fc.array(fc.nat(599)), (count, prefix, scattered) => {
        const keys = keysOf(Array.from({ length: count }, (_, i) => i));
        const there = new Set([...Array(prefix).keys(), ...scattered].filter((i) => i < count));
        const [states, asked] = lookup(keys, there, fresh());
        for (let i = 0; i < count; i++) {
          if (states[i] === 1) expect(there.has(i)).toBe(true);
          if (i < prefix) expect(states[i]).toBe(1);
        }
        expect(asked).toBeLessThanOrEqual(count);
      }),
    );
  });

  it("ask for little where nothing is there, and find a window at the end", () => {
    const keys = keysOf(Array.from({ length: 4000 }, (_, i) => i));
    expect(lookup(keys, new Set(), fresh())[1]).toBeLessThanOrEqual(9);
    const window = new Set([3997, 3998, 3999]);
    const [states] = lookup(keys, window, fresh());
    expect([...states.keys()].filter((i) => states[i] === 1)).toEqual([...window]);
  });

  it("take each group by itself", () => {
    const keys = packKeys(Array.from({ length: 400 }, (_, i) => keyOf(i >> 1, i % 2)));
    const there = new Set([...Array(400).keys()].filter((i) => i % 2 === 1)); // of group 0 nothing, of group 1 all
    const [states] = lookup(keys, there, fresh());
    expect([...states.keys()].filter((i) => states[i] === 1).length).toBe(200);
  });

  it("know from memory what was stored, is being stored, or was a miss a moment ago", () => {
    let nowMs = 0;
    const known = new KnownKeys(36, 1000, () => nowMs);
    known.add(keyOf(0));
    known.beginStoring(keyOf(1));
    known.noteMiss(keyOf(2));
    const plan = new LookupPlan(keysOf([0, 1, 2]), known);
    expect(plan.next()).toEqual([]);
    expect([...plan.states]).toEqual([1, 2, 0]);
    nowMs = 1000; // a miss does not last
    expect(new LookupPlan(keysOf([2]), known).next()).toEqual([0]);
  });
});

describe("s3 index", () => {
  it("a new listing takes what it has found and what was stored meanwhile, and nothing that was removed meanwhile", () => {
    const known = new KnownKeys(36, 0, () => 0);
    known.add(keyOf(1)); // gone from the storage: another host has removed it
    known.add(keyOf(2));
    known.beginListing();
    known.delete(keyOf(2));
    known.listed(keyOf(2)); // was listed before it was removed
    known.add(keyOf(3)); // stored after its page was listed
    known.delete(keyOf(4));
    known.add(keyOf(4)); // removed, and stored again
    known.listed(keyOf(5));
    known.endListing(true);
    expect([1, 2, 3, 4, 5].map((id) => known.has(keyOf(id)))).toEqual([false, false, true, true, true]);
    expect([known.size, known.complete]).toEqual([3, true]);
    known.beginListing();
    known.endListing(false); // a listing that broke off changes nothing
    expect(known.size).toBe(3);
  });
});

describe("s3 errors", () => {
  it("keep nothing of the SDK's error but code, status and request id", () => {
    const thrown = Object.assign(new Error("the string to sign was AWS4-HMAC-SHA256 hidden"), {
      name: "SignatureDoesNotMatch",
      StringToSign: "AWS4-HMAC-SHA256 hidden",
      AWSAccessKeyId: "hidden",
      $metadata: { httpStatusCode: 403, requestId: "r-1" },
      $response: { headers: { authorization: "hidden" } },
    });
    const error = toS3Error(thrown, "load", { bucket: "b" });
    expect([error.code, error.status]).toEqual(["PERMISSION", "permanent"]);
    expect(error.context).toMatchObject({
      bucket: "b",
      httpStatus: 403,
      s3Code: "SignatureDoesNotMatch",
      requestId: "r-1",
    });
    expect(textOf(error)).not.toMatch(/hidden/);
  });
});

describe("s3 settings", () => {
  const config = { bucket: "kv-cache" };
  const wrong: [field: string, config: Record<string, unknown>][] = [
    ["bucket", { bucket: "Not A Bucket" }],
    ["prefix", { ...config, prefix: "/a" }],
    ["prefix", { ...config, prefix: "a//b" }],
    ["region", { ...config, region: "eu central" }],
    ["region", { ...config, region: { hidden: 1 } }],
    ["endpoint", { ...config, endpoint: 9000 }],
    ["endpoint", { ...config, endpoint: "storage.example" }],
    ["endpoint", { ...config, endpoint: "https://user:hidden@storage.example" }],
    ["socketsMax", { ...config, socketsMax: 0 }],
    ["partBytes", { ...config, partBytes: 1024 }],
    ["missTtlMs", { ...config, missTtlMs: -1 }],
    ["sse.type", { ...config, sse: { type: "rot13" } }],
    ["sse.kmsKeyId", { ...config, sse: { type: "AES256", kmsKeyId: "k" } }],
    ["accessKeyId", { ...config, accessKeyId: "AKIAHIDDEN" }],
    ["secretAccessKey", { ...config, secretAccessKey: "hidden" }],
    ["socketMax", { ...config, socketMax: 3 }],
  ];

  it.each(wrong)("says that '%s' is wrong", (field, given) => {
    let thrown: unknown;
    try {
      new S3Backend(given as unknown as S3Config);
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(KvferryError);
    expect(thrown).toMatchObject({ code: "CONFIG_INVALID", context: { field } });
    expect(textOf(thrown)).not.toMatch(/hidden/i);
  });
});

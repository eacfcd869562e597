import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { KvferryError, MISS_REASONS, type MissReason, MissReasons, packKeys } from "../../src/index.js";

/** As a client's keys are: a hash and a group. */
function keyOf(id: number): Uint8Array {
  const key = new Uint8Array(36);
  key.set(createHash("sha256").update(String(id)).digest());
  return key;
}

const keysOf = (ids: readonly number[]) => packKeys(ids.map(keyOf), 36);

describe("the reasons for misses", () => {
  it("tell the last reason of a key, and never_stored of one that they do not know", () => {
    const reason = fc.constantFrom<MissReason>(...MISS_REASONS.slice(1));
    const notes = fc.array(fc.tuple(fc.integer({ min: 0, max: 50 }), reason), { maxLength: 200 });
    const property = fc.property(notes, (all) => {
      const reasons = new MissReasons(36);
      const last = new Map<number, MissReason>();
      for (const [id, why] of all) {
        reasons.note(keysOf([id]), 0, why);
        last.set(id, why);
      }
      for (let id = 0; id <= 60; id++) expect(reasons.reason(keyOf(id))).toBe(last.get(id) ?? "never_stored");
    });
    fc.assert(property, { seed: 1, numRuns: 50 });
  });

  it("remember the last keys in bounded memory, and take few strangers for one of them", () => {
    const reasons = new MissReasons(36, 1024);
    const ids = Array.from({ length: 10_000 }, (_, id) => id);
    reasons.noteAll(keysOf(ids), "evicted");
    const known = ids.filter((id) => reasons.reason(keyOf(id)) === "evicted");
    expect(known.length).toBeGreaterThan(900);
    expect(known.length).toBeLessThanOrEqual(1024);
    expect(known.filter((id) => id >= 8000).length).toBeGreaterThan(700);
    const strangers = ids.map((id) => id + 1_000_000).filter((id) => reasons.reason(keyOf(id)) !== "never_stored");
    expect(strangers).toEqual([]);
    expect(reasons.memoryBytes).toBeLessThan(5000);
  });

  it("count each missing key once, those of a batch by what is known of each", () => {
    const reasons = new MissReasons(36);
    const keys = keysOf([1, 2, 3, 4]);
    reasons.note(keys, 1, "corrupt");
    reasons.countMissing(keys, Uint8Array.of(0, 0, 1, 0), 0);
    reasons.countMissing(keys, Uint8Array.of(1, 1, 0, 1), 0, "tier_down");
    reasons.add("timed_out", 2);
    expect(reasons.counts()).toEqual({
      never_stored: 2,
      evicted: 0,
      dropped: 0,
      corrupt: 1,
      timed_out: 2,
      identity_mismatch: 0,
      tier_down: 1,
    });
  });

  it("refuse a size that is no power of two", () => {
    expect(() => new MissReasons(36, 1000)).toThrow(KvferryError);
  });
});

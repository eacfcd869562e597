import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createMemoryRegion, keyAt, mergeResult, packedKeys, selectBatch, uniformResult } from "../src/index.js";

/** A batch, and its positions dealt out into parts. */
const dealt = fc.integer({ min: 1, max: 60 }).chain((count) =>
  fc.record({
    count: fc.constant(count),
    keyBytes: fc.uint8Array({ minLength: count * 8, maxLength: count * 8 }),
    slots: fc.array(fc.nat(99), { minLength: count, maxLength: count }),
    hands: fc.array(fc.nat(4), { minLength: count, maxLength: count }),
    outcomes: fc.uint8Array({ minLength: count, maxLength: count }),
    codes: fc.uint8Array({ minLength: count, maxLength: count }),
  }),
);

describe("a batch in parts", { timeout: 30_000 }, () => {
  it("has every key with its own slot, and every result back in its place", () => {
    fc.assert(
      fc.property(dealt, ({ count, keyBytes, slots, hands, outcomes, codes }) => {
        const batch = {
          keys: packedKeys(keyBytes, 8),
          region: createMemoryRegion(100, 1),
          slots: Uint32Array.from(slots),
        };
        const whole = uniformResult(count, 0);
        for (const hand of [0, 1, 2, 3, 4]) {
          const positions = hands.flatMap((each, i) => (each === hand ? [i] : []));
          const part = selectBatch(batch, positions);
          expect(part.region).toBe(batch.region);
          for (const [i, position] of positions.entries()) {
            expect(keyAt(part.keys, i)).toEqual(keyAt(batch.keys, position));
            expect(part.slots[i]).toBe(slots[position]);
          }
          const pick = (all: Uint8Array) => Uint8Array.from(positions, (position) => all[position] as number);
          mergeResult(whole, positions, { outcomes: pick(outcomes), codes: pick(codes) });
        }
        expect(whole).toEqual({ outcomes, codes });
      }),
    );
  });
});

import type { AuthorOptions } from "../call.js";
import { type KeyBatch, selectKeys } from "../keys.js";
import { type BatchResult, Outcome, uniformResult } from "../outcomes.js";
import { askTier } from "./noting.js";
import type { StoreParts } from "./parts.js";
import type { Tier } from "./tier.js";

/** Removes blocks from every tier, and from what waits to be copied. A block that a tier could not remove has FAILED, whatever the others say: it may be
 * there still. */
export async function removeFromAll(parts: StoreParts, keys: KeyBatch, options: AuthorOptions): Promise<BatchResult> {
  const { map, movers, tiers } = parts;
  const rows = map.hold(keys, false);
  try {
    const had = Uint8Array.from(rows, (row) => map.tiers(row));
    for (const { bit } of tiers) for (const row of rows) map.lose(row, bit); // a copy that has not begun finds nothing
    await Promise.all(movers.map((mover) => mover.current()));
    const results = await Promise.all(
      tiers.map(async (tier) => {
        tier.removals++;
        const result = await removeFrom(tier, keys, options);
        tier.removals++; // who has asked meanwhile does not know what it heard of
        await noteRemoved(parts, tier, keys, rows, had, result);
        return result;
      }),
    );
    const whole = uniformResult(keys.count, Outcome.MISS);
    for (const { outcomes, codes } of results) {
      for (let i = 0; i < keys.count; i++) {
        if (whole.outcomes[i] === Outcome.FAILED || outcomes[i] === Outcome.MISS) continue;
        whole.outcomes[i] = outcomes[i] as number;
        whole.codes[i] = codes[i] as number;
      }
    }
    return whole;
  } finally {
    map.release(rows, false);
  }
}

/** A tier that cannot be asked may keep what it has. */
async function removeFrom(tier: Tier, keys: KeyBatch, options: AuthorOptions): Promise<BatchResult> {
  if (!tier.isUp) return uniformResult(keys.count, Outcome.FAILED, "UNAVAILABLE");
  return tier.remove(keys, options);
}

/** What the tier is said to have now has been stored meanwhile, before the removal or after it; and what it could not remove, another call may have removed
 * meanwhile: the tier is asked. */
async function noteRemoved(
  { map }: StoreParts,
  tier: Tier,
  keys: KeyBatch,
  rows: Int32Array,
  had: Uint8Array,
  { outcomes }: BatchResult,
): Promise<void> {
  const doubtful: number[] = [];
  for (let i = 0; i < keys.count; i++) {
    const row = rows[i] as number;
    if (outcomes[i] === Outcome.FAILED) {
      if (((had[i] as number) & tier.bit) === 0) continue;
      if (tier.isUp) doubtful.push(i);
      else map.gain(row, tier.bit);
    } else if ((map.tiers(row) & tier.bit) !== 0) {
      map.lose(row, tier.bit);
      doubtful.push(i);
    }
  }
  if (doubtful.length === 0) return;
  const doubtfulRows = Int32Array.from(doubtful, (i) => rows[i] as number);
  await askTier(map, tier, selectKeys(keys, doubtful), doubtfulRows);
}

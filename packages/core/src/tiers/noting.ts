import { type KeyBatch, selectKeys } from "../keys.js";
import { type BatchResult, LookupState, Outcome } from "../outcomes.js";
import type { BlockMap } from "./block-map.js";
import type { Tier } from "./tier.js";

/** How often a tier is asked while blocks leave it. */
const QUESTIONS_MAX = 3;

/**
 * Notes what a store has put into a tier; the rows are held. A block that left the tier while the store was under way may be there or not, since nobody
 * knows which was first: the tier is asked. Nothing to wait for in the usual case.
 */
export function noteStored(
  map: BlockMap,
  tier: Tier,
  keys: KeyBatch,
  rows: Int32Array,
  result: BatchResult,
): Promise<void> | undefined {
  const doubtful: number[] = [];
  for (let i = 0; i < rows.length; i++) {
    const outcome = result.outcomes[i];
    if (outcome !== Outcome.STORED && outcome !== Outcome.PRESENT) continue;
    const row = rows[i] as number;
    if ((map.lost(row) & tier.bit) === 0) map.gain(row, tier.bit);
    else doubtful.push(i);
  }
  if (doubtful.length === 0) return undefined;
  const doubtfulRows = Int32Array.from(doubtful, (i) => rows[i] as number);
  return askTier(map, tier, selectKeys(keys, doubtful), doubtfulRows);
}

/** Asks a tier which of these blocks it has now, and notes those; the rows are held. */
export async function askTier(map: BlockMap, tier: Tier, keys: KeyBatch, rows: Int32Array): Promise<void> {
  for (let question = 0; question < QUESTIONS_MAX; question++) {
    const { removals } = tier;
    let states = tier.backend.lookupNow(keys);
    if (states === undefined) {
      try {
        states = await tier.backend.lookup(keys);
      } catch {
        return; // not known to be there: found again by whoever asks the tier
      }
      if (removals !== tier.removals) continue;
    }
    for (let i = 0; i < rows.length; i++) if (states[i] === LookupState.HIT) map.gain(rows[i] as number, tier.bit);
    return;
  }
}

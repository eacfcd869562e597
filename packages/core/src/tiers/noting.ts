import { type KeyBatch, selectKeys } from "../keys.js";
import { type BatchResult, LookupState, Outcome } from "../outcomes.js";
import type { BlockMap } from "./block-map.js";
import type { Tier } from "./tier.js";

/** How often a tier is asked about blocks that came and went at the same time. */
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
  return ask(map, tier, selectKeys(keys, doubtful), doubtfulRows);
}

async function ask(map: BlockMap, tier: Tier, keys: KeyBatch, rows: Int32Array): Promise<void> {
  for (let question = 0; question < QUESTIONS_MAX; question++) {
    for (const row of rows) map.forgetLost(row, tier.bit);
    let states: Uint8Array;
    try {
      states = tier.backend.lookupNow(keys) ?? (await tier.backend.lookup(keys));
    } catch {
      return; // not known to be there: found again by whoever asks the tier
    }
    let open = false;
    for (let i = 0; i < rows.length; i++) {
      const row = rows[i] as number;
      if (states[i] !== LookupState.HIT) continue;
      if ((map.lost(row) & tier.bit) === 0) map.gain(row, tier.bit);
      else open = true;
    }
    if (!open) return;
  }
}

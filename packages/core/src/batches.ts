import type { BlockBatch } from "./backend.js";
import { selectKeys } from "./keys.js";
import type { BatchResult } from "./outcomes.js";

/** The blocks of a batch at the given positions: keys and slots copied, the same region. */
export function selectBatch(batch: BlockBatch, positions: ArrayLike<number>): BlockBatch {
  const slots = new Uint32Array(positions.length);
  for (let i = 0; i < positions.length; i++) slots[i] = batch.slots[positions[i] as number] as number;
  return { keys: selectKeys(batch.keys, positions), region: batch.region, slots };
}

/** Writes the result of a part of a batch where it belongs: key i of `part` is key `positions[i]` of `whole`. */
export function mergeResult(whole: BatchResult, positions: ArrayLike<number>, part: BatchResult): void {
  for (let i = 0; i < positions.length; i++) {
    const position = positions[i] as number;
    whole.outcomes[position] = part.outcomes[i] as number;
    whole.codes[position] = part.codes[i] as number;
  }
}

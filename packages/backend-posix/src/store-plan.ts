import { type BatchResult, type BlockBatch, type KeyBatch, keyAt, Outcome, selectKeys, setOutcome, uniformResult } from "@kvferry/core";
import { keyText, type Presence } from "./presence.js";

/** What a batch of stores comes to before any I/O. */
export interface StorePlan {
  /** PRESENT and DROPPED keys are decided; the others are FAILED until their part is done. */
  readonly result: BatchResult;
  /** Keys that are written now. */
  readonly stored: KeyBatch;
  /** Positions to write; `replace` for those whose file belongs to another namespace. */
  readonly parts: readonly { readonly positions: readonly number[]; readonly replace: boolean }[];
  /** Gives the second of two equal keys the outcome of the first. */
  copyTwins(): void;
}

/** Sorts a batch into what is there already, what fits, and what does not. Keys of `foreign` that are written leave it. */
export function planStore(batch: BlockBatch, presence: Presence, foreign: Set<string>, freeBlocks: number): StorePlan {
  const { keys } = batch;
  const result = uniformResult(keys.count, Outcome.FAILED);
  const first = new Map<string, number>();
  const twins: [position: number, of: number][] = [];
  const fresh: number[] = [];
  const replaced: number[] = [];
  let free = freeBlocks;
  for (let i = 0; i < keys.count; i++) {
    const key = keyAt(keys, i);
    if (presence.has(key)) {
      setOutcome(result, i, Outcome.PRESENT);
      continue;
    }
    const text = keyText(key);
    const twin = first.get(text);
    if (twin !== undefined) {
      twins.push([i, twin]);
      continue;
    }
    first.set(text, i);
    if (free-- < 1) setOutcome(result, i, Outcome.DROPPED, "NO_SPACE");
    else if (foreign.delete(text)) replaced.push(i);
    else fresh.push(i);
  }
  return {
    result,
    stored: selectKeys(keys, [...fresh, ...replaced]),
    parts: [
      { positions: fresh, replace: false },
      { positions: replaced, replace: true },
    ],
    copyTwins() {
      for (const [position, of] of twins) {
        const outcome = result.outcomes[of];
        result.outcomes[position] = outcome === Outcome.STORED ? Outcome.PRESENT : (outcome as number);
        result.codes[position] = result.codes[of] as number;
      }
    },
  };
}

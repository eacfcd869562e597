import { type BatchResult, type BlockBatch, keyAt, Outcome, setOutcome, uniformResult } from "@kvferry/core";
import { keyText, type Presence } from "./presence.js";

/** What a batch of stores comes to before any I/O. */
export interface StorePlan {
  /** PRESENT keys are decided; those at `positions` and their twins are FAILED until they are written. */
  readonly result: BatchResult;
  /** Keys to write. */
  readonly positions: readonly number[];
  /** Gives the second of two equal keys the outcome of the first. */
  copyTwins(): void;
}

/** Sorts a batch into what is there already and what is to be written. */
export function planStore(batch: BlockBatch, presence: Presence): StorePlan {
  const { keys } = batch;
  const result = uniformResult(keys.count, Outcome.FAILED);
  const first = new Map<string, number>();
  const twins: [position: number, of: number][] = [];
  const positions: number[] = [];
  for (let i = 0; i < keys.count; i++) {
    const key = keyAt(keys, i);
    if (presence.has(key)) {
      setOutcome(result, i, Outcome.PRESENT);
      continue;
    }
    const text = keyText(key);
    const twin = first.get(text);
    if (twin === undefined) {
      first.set(text, i);
      positions.push(i);
    } else {
      twins.push([i, twin]);
    }
  }
  return {
    result,
    positions,
    copyTwins() {
      for (const [position, of] of twins) {
        const outcome = result.outcomes[of] as number;
        result.outcomes[position] = outcome === Outcome.STORED ? Outcome.PRESENT : outcome;
        result.codes[position] = result.codes[of] as number;
      }
    },
  };
}

import { type BatchResult, type KeyBatch, keyAt, type Outcome, selectKeys } from "@kvferry/core";
import { keyText } from "./known-keys.js";

/** The keys that had this outcome. */
export function keysWith(keys: KeyBatch, { outcomes }: BatchResult, outcome: Outcome): KeyBatch {
  return selectKeys(
    keys,
    [...outcomes.keys()].filter((i) => outcomes[i] === outcome),
  );
}

/** For a call whose caller may reuse its keys after an abort. */
export function copyOf({ bytes, stride, count }: KeyBatch): KeyBatch {
  return { bytes: bytes.slice(), stride, count };
}

/** For each key that was in the batch before: its position, and that of the first one. */
export function firstOfEqual(keys: KeyBatch): Map<number, number> {
  const first = new Map<string, number>();
  const twins = new Map<number, number>();
  for (let i = 0; i < keys.count; i++) {
    const text = keyText(keyAt(keys, i));
    const of = first.get(text);
    if (of === undefined) first.set(text, i);
    else twins.set(i, of);
  }
  return twins;
}

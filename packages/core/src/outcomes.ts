import { type ErrorCode, errorCodeOf, errorNumber } from "./errors.js";

/** One byte per key that `lookup` answers. PENDING: a store of it is under way; ask again. */
export const LookupState = { MISS: 0, HIT: 1, PENDING: 2 } as const;
export type LookupState = (typeof LookupState)[keyof typeof LookupState];

/** One byte per key of a store, load or remove. FAILED is 0, so that an outcome nobody set is a failure, never a success. */
export const Outcome = {
  FAILED: 0,
  STORED: 1,
  PRESENT: 2,
  DROPPED: 3,
  LOADED: 4,
  MISS: 5,
  CORRUPT: 6,
  REMOVED: 7,
} as const;
export type Outcome = (typeof Outcome)[keyof typeof Outcome];

/** What happened to each key of a batch. `outcomes[i]` belongs to key i; `codes[i]` is the wire number of the error code of a
 * FAILED key (see ERROR_CODES), or of the reason of a MISS, CORRUPT or DROPPED one, 0 where there is none. */
export interface BatchResult {
  readonly outcomes: Uint8Array;
  readonly codes: Uint8Array;
}

/** A result of `count` keys, all with one outcome and, if given, one code. */
export function uniformResult(count: number, outcome: Outcome, code?: ErrorCode): BatchResult {
  const result = { outcomes: new Uint8Array(count), codes: new Uint8Array(count) };
  result.outcomes.fill(outcome);
  if (code !== undefined) result.codes.fill(errorNumber(code));
  return result;
}

/** Sets one key's outcome. */
export function setOutcome(result: BatchResult, index: number, outcome: Outcome, code?: ErrorCode): void {
  result.outcomes[index] = outcome;
  result.codes[index] = code === undefined ? 0 : errorNumber(code);
}

/** The error code of key `index`, or undefined where it has none. */
export function outcomeCode(result: BatchResult, index: number): ErrorCode | undefined {
  const number = result.codes[index];
  return number === undefined || number === 0 ? undefined : errorCodeOf(number);
}

/** How many keys ended with `outcome`. */
export function countOutcome(result: BatchResult, outcome: Outcome): number {
  let count = 0;
  for (const each of result.outcomes) if (each === outcome) count++;
  return count;
}

const outcomeNames: readonly string[] = Object.keys(Outcome);

/** "STORED", "CORRUPT", … for logs and metrics labels. */
export function outcomeName(outcome: number): string {
  return outcomeNames[outcome] ?? `OUTCOME_${outcome}`;
}

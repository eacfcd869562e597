import { KvferryError } from "../errors.js";
import { type KeyBatch, keyAt } from "../keys.js";
import { batchWords, hashWords, keyWords, wordsOfKey } from "../prefix-index/key-words.js";

/** Why a block is not there. */
export const MISS_REASONS = [
  "never_stored",
  "evicted",
  "dropped",
  "corrupt",
  "timed_out",
  "identity_mismatch",
  "tier_down",
] as const;

/**
 * never_stored: nothing is known of the key, the usual answer. evicted: it was there and made room for others. dropped: a store of it was
 * refused. corrupt: its bytes did not verify. timed_out: a store or load of it ended at its deadline or was aborted. identity_mismatch: what lies under
 * its name belongs to another namespace. tier_down: a tier that has it, or may have it, cannot be asked.
 */
export type MissReason = (typeof MISS_REASONS)[number];

const ENTRIES_DEFAULT = 2 ** 16;
const ENTRIES_MAX = 2 ** 24;
/** Entries that share a place: the oldest of them makes room for a new one. */
const WAYS = 4;
const REASON_BITS = 3;
const REASON_MASK = (1 << REASON_BITS) - 1;
const TAG_MASK = ~REASON_MASK;

/**
 * The last reason for which a key went missing, for the last keys that did, in four bytes an entry: 29 bits of the key itself and 3 of
 * the reason. A key's hash (32 bits, seeded) chooses one of `entries / 4` places, in which the oldest entry is replaced.
 *
 * A key that is not in the table is taken for one that is with a chance of about 4 × 2^-29, provided that keys are hashes, as vLLM's are: it
 * must meet the same place and the same 29 bits. A wrong reason is counted then, and nothing else follows from it.
 */
export class MissReasons {
  readonly #words: number;
  readonly #entries: Int32Array;
  /** Which entry of a place is replaced next. */
  readonly #turns: Uint8Array;
  readonly #placeMask: number;
  readonly #counts: Float64Array = new Float64Array(MISS_REASONS.length);

  /** @param entries how many keys are remembered, a power of two; default 65,536.
   * @throws KvferryError INVALID_ARGUMENT for any other number. */
  constructor(keyBytes: number, entries: number = ENTRIES_DEFAULT) {
    if (!(entries >= WAYS && entries <= ENTRIES_MAX && (entries & (entries - 1)) === 0)) {
      throw new KvferryError("INVALID_ARGUMENT", `entries must be a power of two up to ${ENTRIES_MAX}, got ${entries}`);
    }
    this.#words = wordsOfKey(keyBytes);
    this.#entries = new Int32Array(entries);
    this.#turns = new Uint8Array(entries / WAYS);
    this.#placeMask = entries / WAYS - 1;
  }

  get memoryBytes(): number {
    return this.#entries.byteLength + this.#turns.byteLength;
  }

  /** Misses so far, by reason. */
  counts(): Readonly<Record<MissReason, number>> {
    const entries = MISS_REASONS.map((reason, i) => [reason, this.#counts[i] as number]);
    return Object.fromEntries(entries) as Record<MissReason, number>;
  }

  /** Misses of one reason so far. */
  count(reason: MissReason): number {
    return this.#counts[MISS_REASONS.indexOf(reason)] as number;
  }

  /** Counts `misses` whose reason is known and whose keys are not. */
  add(reason: MissReason, misses: number): void {
    const number = MISS_REASONS.indexOf(reason);
    this.#counts[number] = (this.#counts[number] as number) + misses;
  }

  /** From now on this is why the key is missing. */
  note(keys: KeyBatch, index: number, reason: MissReason): void {
    const words = keyWords(keyAt(keys, index));
    this.#put(words, 0, MISS_REASONS.indexOf(reason));
  }

  /** As `note`, for all keys of a batch. */
  noteAll(keys: KeyBatch, reason: MissReason): void {
    const words = batchWords(keys);
    const number = MISS_REASONS.indexOf(reason);
    for (let i = 0; i < keys.count; i++) this.#put(words, i * this.#words, number);
  }

  /** Why a key is missing, by what is remembered. */
  reason(key: Uint8Array): MissReason {
    return MISS_REASONS[this.#find(keyWords(key), 0)] as MissReason;
  }

  /** Counts the keys i of a batch for which `missing[i]` is `value`, each by what is remembered of it; `unknown` is the reason of
   * those of which nothing is. */
  countMissing(keys: KeyBatch, missing: Uint8Array, value: number, unknown: MissReason = "never_stored"): void {
    const words = batchWords(keys);
    const fallback = MISS_REASONS.indexOf(unknown);
    for (let i = 0; i < keys.count; i++) {
      if (missing[i] !== value) continue;
      const number = this.#find(words, i * this.#words) || fallback;
      this.#counts[number] = (this.#counts[number] as number) + 1;
    }
  }

  #put(words: Int32Array, at: number, reason: number): void {
    const place = this.#place(words, at);
    const tag = (words[at] as number) & TAG_MASK;
    for (let i = place; i < place + WAYS; i++) {
      const entry = this.#entries[i] as number;
      if (entry === 0 || (entry & TAG_MASK) !== tag || (entry & REASON_MASK) === 0) continue;
      this.#entries[i] = tag | reason;
      return;
    }
    const turn = place / WAYS;
    const way = this.#turns[turn] as number;
    this.#entries[place + way] = tag | reason;
    this.#turns[turn] = (way + 1) % WAYS;
  }

  /** The number of the reason; 0, never_stored, where nothing is remembered. */
  #find(words: Int32Array, at: number): number {
    const place = this.#place(words, at);
    const tag = (words[at] as number) & TAG_MASK;
    for (let i = place; i < place + WAYS; i++) {
      const entry = this.#entries[i] as number;
      if ((entry & TAG_MASK) === tag && (entry & REASON_MASK) !== 0) return entry & REASON_MASK;
    }
    return 0;
  }

  #place(words: Int32Array, at: number): number {
    return (hashWords(words, at, this.#words) & this.#placeMask) * WAYS;
  }
}

import { POLICIES, type PolicyName } from "../eviction/policies.js";
import type { BlockUse, EvictionPolicy, PolicyFactory } from "../eviction/policy.js";
import { grownInt32, rowsFor } from "../eviction/rows.js";
import type { KeyBatch } from "../keys.js";
import { NO_ROW } from "../prefix-index/block-table.js";
import { batchWords } from "../prefix-index/key-words.js";
import { PrefixIndex } from "../prefix-index/prefix-index.js";
import type { Clock } from "../runtime.js";
import { RecentRequests } from "./recent-requests.js";

export interface BlockLedgerOptions {
  readonly keyBytes: number;
  /** Blocks when it is full, about. */
  readonly capacityBlocks: number;
  readonly policy: PolicyName | PolicyFactory;
  readonly clock: Clock;
}

/** The only tier of a ledger's index. */
const HERE = 1;
/** Lookups whose uses are still to be counted, at most; one more counts them at once. */
const LOOKUPS_WAITING_MAX = 1024;
/** A load this soon after a use belongs to it: the request was counted when it looked up. */
const SAME_USE_MS = 10_000;
/** Blocks that a call is reading, passed over in one search for a victim. */
const PINNED_TRIES_MAX = 256;

/**
 * The blocks of one bounded store: which are there, how they are used, which go first. Keeps a prefix index and a policy in step, and knows which blocks may
 * not go now because a call is reading them.
 *
 * Whoever looks up waits for nothing of this: uses are counted after the turn in which they were made.
 */
export class BlockLedger {
  readonly index: PrefixIndex;
  readonly policy: EvictionPolicy;
  readonly #clock: Clock;
  readonly #recent: RecentRequests;
  readonly #use: BlockUse = { nowMs: 0, position: 0, requestBlocks: 0, foundBlocks: 0 };
  /** Calls that are reading the row's block. */
  #pins: Int32Array = new Int32Array(0);
  /** Which `insert` has seen the row last, to tell a key that comes twice. */
  #stamps: Int32Array = new Int32Array(0);
  #stamp = 0;
  #lookups: KeyBatch[] = [];
  #counting: NodeJS.Immediate | undefined;

  constructor({ keyBytes, capacityBlocks, policy, clock }: BlockLedgerOptions) {
    this.index = new PrefixIndex({ keyBytes });
    const make = typeof policy === "string" ? POLICIES[policy] : policy;
    this.policy = make({ table: this.index, capacityBlocks });
    this.#clock = clock;
    this.#recent = new RecentRequests(keyBytes);
  }

  get blocks(): number {
    return this.index.size;
  }

  get memoryBytes(): number {
    const own = this.#pins.byteLength + this.#stamps.byteLength;
    return this.index.memoryBytes + this.policy.memoryBytes + this.#recent.memoryBytes + own;
  }

  /** A request has looked its keys up, in prefix order. They are copied, and counted as used soon. */
  noteLookup(keys: KeyBatch): void {
    this.#lookups.push({ bytes: keys.bytes.slice(), stride: keys.stride, count: keys.count });
    if (this.#lookups.length >= LOOKUPS_WAITING_MAX) this.countUses();
    else this.#counting ??= setImmediate(() => this.countUses());
  }

  /** Counts what is waiting to be counted. */
  countUses(): void {
    clearImmediate(this.#counting);
    this.#counting = undefined;
    const lookups = this.#lookups;
    this.#lookups = [];
    for (const keys of lookups) this.#countLookup(keys);
  }

  /** A load has read these rows (NO_ROW is skipped). Counted as a use only where no lookup has told of it. */
  noteLoad(keys: KeyBatch, rows: Int32Array): void {
    const use = this.#begunUse();
    const before = use.nowMs - SAME_USE_MS;
    let words: Int32Array | undefined;
    for (let i = keys.count - 1; i >= 0; i--) {
      const row = rows[i] as number;
      if (row === NO_ROW || this.index.tiers(row) === 0 || this.index.lastUseMs(row) > before) continue;
      words ??= batchWords(keys);
      this.#recent.describe(keys, words, i, use);
      this.index.touch(rows.subarray(i, i + 1), use.nowMs);
      this.policy.used(row, use);
    }
  }

  /** Adds the keys i with `here[i]` 1. Writes their rows, and 1 to `fresh` for each that was not there (for the first of equal keys). */
  insert(keys: KeyBatch, here: Uint8Array, bytes: number, rows: Int32Array, fresh: Uint8Array): void {
    this.index.findMany(keys, rows);
    for (let i = 0; i < keys.count; i++) fresh[i] = here[i] === 1 && rows[i] === NO_ROW ? 1 : 0;
    const use = this.#begunUse();
    for (let start = 0; start < keys.count; ) {
      let end = start;
      while (end < keys.count && here[end] === 1) end++;
      if (end > start) this.#insertRun(keys, start, end, bytes, rows);
      start = end + 1;
    }
    this.#dropTwins(keys.count, rows, fresh);
    const words = batchWords(keys);
    for (let i = keys.count - 1; i >= 0; i--) {
      if (fresh[i] === 0) continue;
      this.#recent.describe(keys, words, i, use);
      this.policy.inserted(rows[i] as number, use);
    }
  }

  /** The block that should go next and may; NO_ROW if there is none. It stays until `drop`. */
  victim(): number {
    const use = this.#begunUse();
    for (let tries = 0; tries < PINNED_TRIES_MAX; tries++) {
      const row = this.policy.victim(use.nowMs);
      if (row === NO_ROW || !this.isPinned(row)) return row;
      use.position = use.foundBlocks = 0;
      use.requestBlocks = 1;
      this.policy.used(row, use); // which is what the call that reads it does
    }
    return NO_ROW;
  }

  /** The block has gone, or is about to: nobody finds it any more. */
  drop(row: number): void {
    this.policy.removed(row);
    this.index.delete(row);
  }

  isPinned(row: number): boolean {
    return row < this.#pins.length && this.#pins[row] !== 0;
  }

  /** The blocks of these rows (NO_ROW is skipped) may not go until `unpin`. */
  pin(rows: Int32Array): void {
    if (this.#pins.length < this.index.rowLimit) this.#grow();
    for (let i = 0; i < rows.length; i++) {
      const row = rows[i] as number;
      if (row !== NO_ROW) (this.#pins[row] as number)++;
    }
  }

  unpin(rows: Int32Array): void {
    for (let i = 0; i < rows.length; i++) {
      const row = rows[i] as number;
      if (row !== NO_ROW) (this.#pins[row] as number)--;
    }
  }

  close(): void {
    clearImmediate(this.#counting);
    this.#counting = undefined;
    this.#lookups = [];
  }

  #countLookup(keys: KeyBatch): void {
    const rows = new Int32Array(keys.count);
    this.index.findMany(keys, rows);
    let found = 0;
    while (found < keys.count && rows[found] !== NO_ROW) found++;
    this.#recent.note(keys, found);
    if (found === 0 && rows.every((row) => row === NO_ROW)) return;
    const use = this.#begunUse();
    use.requestBlocks = keys.count;
    use.foundBlocks = found;
    this.index.observe(keys, rows);
    this.index.touch(rows, use.nowMs);
    for (let i = keys.count - 1; i >= 0; i--) {
      const row = rows[i] as number;
      if (row === NO_ROW) continue;
      use.position = i;
      this.policy.used(row, use);
    }
  }

  #insertRun(keys: KeyBatch, start: number, end: number, bytes: number, rows: Int32Array): void {
    const { stride } = keys;
    const run = { bytes: keys.bytes.subarray(start * stride, end * stride), stride, count: end - start };
    const parent = start === 0 ? NO_ROW : (rows[start - 1] as number);
    this.index.insert(run, { tier: HERE, bytes, nowMs: this.#use.nowMs, parent }, rows.subarray(start, end));
  }

  #dropTwins(count: number, rows: Int32Array, fresh: Uint8Array): void {
    if (this.#stamps.length < this.index.rowLimit) this.#grow();
    this.#stamp = (this.#stamp + 1) | 0;
    for (let i = 0; i < count; i++) {
      if (fresh[i] === 0) continue;
      const row = rows[i] as number;
      if (this.#stamps[row] === this.#stamp) fresh[i] = 0;
      else this.#stamps[row] = this.#stamp;
    }
  }

  #begunUse(): BlockUse {
    this.#use.nowMs = this.#clock.nowMs();
    return this.#use;
  }

  #grow(): void {
    const rows = rowsFor(this.index.rowLimit);
    this.#pins = grownInt32(this.#pins, rows, 0);
    this.#stamps = grownInt32(this.#stamps, rows, 0);
  }
}

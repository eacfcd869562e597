import { type AuthorOptions, abortError } from "../call.js";
import { type KeyBatch, selectKeys } from "../keys.js";
import { LookupState } from "../outcomes.js";
import { NO_ROW } from "../prefix-index/block-table.js";
import { fastest, openMask, type StoreParts, upMask } from "./parts.js";
import type { Tier } from "./tier.js";

const { HIT, MISS, PENDING } = LookupState;
/** Lookups that tiers have still to be told of, at most; one more tells them at once. */
const UNTOLD_MAX = 1024;

/** What the map says of a request's keys. */
interface Answer {
  readonly states: Uint8Array;
  /** Positions that the map does not know and some tier that can be asked may have. */
  readonly unknown: readonly number[];
  /** Whether a tier that cannot be asked may have what the map does not know. */
  readonly anyDown: boolean;
}

/** In `states` while they are worked on: a tier has the block that cannot be asked. A MISS, if no other tier has it. */
const BEHIND_DOWN = 3;

/** The lookups of a store: from the map, and from tiers about which the map cannot know everything. */
export class Lookups {
  readonly #parts: StoreParts;
  #untold: KeyBatch[] = [];
  #telling: NodeJS.Immediate | undefined;

  constructor(parts: StoreParts) {
    this.#parts = parts;
  }

  /** The whole answer, where every tier is known, or can tell in this turn, or cannot be asked. */
  now(keys: KeyBatch): Uint8Array | undefined {
    const answer = this.#fromMap(keys);
    if (answer.unknown.length > 0 && this.#askNow(keys, answer) !== 0) return undefined;
    return this.#finish(keys, answer);
  }

  async ask(keys: KeyBatch, options: AuthorOptions): Promise<Uint8Array> {
    const answer = this.#fromMap(keys);
    const mask = answer.unknown.length > 0 ? this.#askNow(keys, answer) : 0;
    if (mask !== 0) {
      const copy = { ...keys, bytes: keys.bytes.slice() }; // the caller may leave at an abort
      const tiers = this.#parts.tiers.filter(({ bit }) => (mask & bit) !== 0);
      await Promise.all(tiers.map((tier) => this.#askTier(tier, copy, answer, options)));
      if (options.signal?.aborted) {
        this.#parts.reasons.add("timed_out", answer.unknown.length);
        throw abortError(options.signal, "lookup");
      }
    }
    return this.#finish(keys, answer);
  }

  close(): void {
    clearImmediate(this.#telling);
    this.#untold = [];
  }

  #fromMap(keys: KeyBatch): Answer {
    const { tiers, map } = this.#parts;
    const up = upMask(tiers);
    const open = openMask(tiers);
    const rows = map.find(keys);
    const states = new Uint8Array(keys.count);
    const unknown: number[] = [];
    for (let i = 0; i < rows.length; i++) {
      const row = rows[i] as number;
      const bits = map.tiers(row);
      if ((bits & up) !== 0) states[i] = HIT;
      else if (map.isStoring(row)) states[i] = PENDING;
      else {
        if (bits !== 0) states[i] = BEHIND_DOWN;
        if ((open & up) !== 0) unknown.push(i);
      }
    }
    return { states, unknown, anyDown: (open & ~up) !== 0 };
  }

  /** Asks the tiers that can answer in this turn. Returns the tiers whose answer takes longer and may matter. */
  #askNow(keys: KeyBatch, { states, unknown }: Answer): number {
    const { tiers, map } = this.#parts;
    let left = unknown;
    let later = 0;
    for (let mask = openMask(tiers) & upMask(tiers); mask !== 0 && left.length > 0; mask &= mask - 1) {
      const tier = fastest(tiers, mask);
      const part = left.length === keys.count ? keys : selectKeys(keys, left);
      const found = tier.backend.lookupNow(part);
      if (found === undefined) {
        later |= tier.bit;
        continue;
      }
      const hits: number[] = [];
      left = left.filter((i, k) => {
        if (found[k] === MISS) return true;
        states[i] = found[k] as number;
        if (found[k] === HIT) hits.push(k);
        return false;
      });
      if (hits.length > 0) map.gainAll(selectKeys(part, hits), tier.bit);
    }
    return left.length > 0 ? later : 0;
  }

  /** A tier that fails is down, and what only it may have is missing. */
  async #askTier(tier: Tier, keys: KeyBatch, { states, unknown }: Answer, options: AuthorOptions): Promise<void> {
    const left = unknown.filter((i) => states[i] !== HIT && states[i] !== PENDING);
    const part = selectKeys(keys, left);
    const { removals } = tier;
    let found: Uint8Array;
    try {
      found = await tier.backend.lookup(part, { signal: options.signal, priority: options.priority });
    } catch (thrown) {
      tier.failed(thrown, "lookup", options.signal);
      return;
    }
    const hits: number[] = [];
    for (const [k, i] of left.entries()) {
      if (found[k] === HIT) hits.push(k);
      if (found[k] !== MISS && states[i] !== HIT) states[i] = found[k] as number;
    }
    // what left the tier meanwhile may be among them
    if (hits.length > 0 && removals === tier.removals) this.#parts.map.gainAll(selectKeys(part, hits), tier.bit);
  }

  #finish(keys: KeyBatch, { states, anyDown }: Answer): Uint8Array {
    const { reasons } = this.#parts;
    reasons.countMissing(keys, states, MISS, anyDown ? "tier_down" : "never_stored");
    for (let i = 0; i < states.length; i++) {
      if (states[i] !== BEHIND_DOWN) continue;
      states[i] = MISS;
      reasons.add("tier_down", 1);
    }
    this.#untold.push({ ...keys, bytes: keys.bytes.slice() });
    if (this.#untold.length >= UNTOLD_MAX) this.#tell();
    else this.#telling ??= setImmediate(() => this.#tell());
    return states;
  }

  /** Tells the tiers that are this store's own what was looked up, after the turn in which an engine waits for its answer: they rank their blocks by it.
   * What they answer sets the map right. */
  #tell(): void {
    clearImmediate(this.#telling);
    this.#telling = undefined;
    const { tiers, map } = this.#parts;
    const untold = this.#untold;
    this.#untold = [];
    for (const keys of untold) {
      let rows: Int32Array | undefined;
      for (const tier of tiers) {
        if (!tier.exact || !tier.isUp) continue;
        const states = tier.backend.lookupNow(keys);
        if (states === undefined) continue;
        rows ??= map.find(keys);
        for (let i = 0; i < rows.length; i++) this.#correct(tier, keys, i, rows, states[i] as number);
      }
    }
  }

  #correct(tier: Tier, keys: KeyBatch, i: number, rows: Int32Array, state: number): void {
    const { map } = this.#parts;
    const row = rows[i] as number;
    const known = (map.tiers(row) & tier.bit) !== 0;
    if (known === (state === HIT) || state === PENDING) return;
    if (known) {
      if (!map.isStoring(row)) map.lose(row, tier.bit);
      return;
    }
    if (row !== NO_ROW && map.tiers(row) !== 0) map.gain(row, tier.bit);
    else map.gainAll(selectKeys(keys, [i]), tier.bit);
  }
}

import { type AuthorOptions, abortCode } from "../call.js";
import { type KeyBatch, selectKeys } from "../keys.js";
import { type BatchResult, Outcome, outcomeCode, setOutcome, uniformResult } from "../outcomes.js";
import { countMoves } from "./moves.js";
import { noteStored } from "./noting.js";
import type { StoreParts } from "./parts.js";
import type { Tier } from "./tier.js";

/** A fill takes at most this share of the staging memory at once: copies that engines cause go on beside it. */
const STAGING_SHARE = 4;

/** Part of a fill: its keys, their held rows, and a slot of the staging memory for each. */
interface Part {
  readonly target: Tier;
  readonly keys: KeyBatch;
  readonly rows: Int32Array;
  readonly slots: Uint32Array;
  readonly result: BatchResult;
  readonly options: AuthorOptions;
}

/** Copies that somebody asks for, block by block, where a `Mover` makes those that follow from what engines do. */
export class Fills {
  readonly #parts: StoreParts;
  readonly #current: Set<Promise<unknown>> = new Set();

  constructor(parts: StoreParts) {
    this.#parts = parts;
  }

  /** Puts blocks into a tier, each from the fastest tier that has it sound. Engines' loads come first. Never rejects for a tier that fails.
   * @returns STORED, PRESENT, DROPPED (the tier has no room), MISS (nobody has it), CORRUPT, FAILED. */
  async fill(target: Tier, keys: KeyBatch, signal: AbortSignal | undefined): Promise<BatchResult> {
    const filling = this.#fill(target, keys, signal);
    const ended: Promise<unknown> = filling.catch(() => {}).then(() => this.#current.delete(ended));
    this.#current.add(ended);
    return filling;
  }

  /** When nothing is under way. */
  async idle(): Promise<void> {
    await Promise.all(this.#current);
  }

  async #fill(target: Tier, keys: KeyBatch, signal: AbortSignal | undefined): Promise<BatchResult> {
    const { stopping } = this.#parts;
    const both = signal === undefined ? stopping : AbortSignal.any([signal, stopping]);
    const pool = this.#parts.staging();
    const most = Math.max(1, Math.floor(pool.region.rows / STAGING_SHARE));
    const result = uniformResult(keys.count, Outcome.MISS);
    for (let at = 0; at < keys.count; ) {
      const slots = await pool.take(Math.min(most, keys.count - at), both);
      if (slots === undefined) {
        for (let i = at; i < keys.count; i++) setOutcome(result, i, Outcome.FAILED, abortCode(both));
        break;
      }
      try {
        const positions = Array.from(slots, (_, k) => at + k);
        const part = await this.#fillSome(target, selectKeys(keys, positions), slots, both);
        result.outcomes.set(part.outcomes, at);
        result.codes.set(part.codes, at);
        at += slots.length;
      } finally {
        pool.give(slots);
      }
    }
    return result;
  }

  async #fillSome(target: Tier, keys: KeyBatch, slots: Uint32Array, signal: AbortSignal): Promise<BatchResult> {
    const { map, tiers } = this.#parts;
    const rows = map.hold(keys, false);
    const result = uniformResult(keys.count, Outcome.MISS);
    const part: Part = { target, keys, rows, slots, result, options: { signal, priority: "store" } };
    try {
      let left: number[] = [];
      for (let i = 0; i < rows.length; i++) {
        if ((map.tiers(rows[i] as number) & target.bit) !== 0) setOutcome(result, i, Outcome.PRESENT);
        else left.push(i);
      }
      const loaded: number[] = [];
      for (const source of tiers) {
        if (source === target || left.length === 0) continue;
        left = await this.#load(source, part, left, loaded);
      }
      for (const i of signal.aborted ? left : []) setOutcome(result, i, Outcome.FAILED, abortCode(signal));
      if (loaded.length > 0)
        await this.#put(
          part,
          loaded.sort((a, b) => a - b),
        );
      return result;
    } finally {
      map.release(rows, false);
    }
  }

  /** Loads what a tier has, or may have, of the blocks at `positions`; adds to `loaded`, and returns the others. */
  async #load(source: Tier, part: Part, positions: readonly number[], loaded: number[]): Promise<number[]> {
    const { keys, rows, slots, options } = part;
    const { map } = this.#parts;
    const { bit, exact, isUp } = source;
    if (!isUp || options.signal?.aborted) return [...positions];
    const asked = positions.filter((i) => !exact || (map.tiers(rows[i] as number) & bit) !== 0);
    if (asked.length === 0) return [...positions];
    const batch = {
      keys: selectKeys(keys, asked),
      region: this.#parts.staging().region,
      slots: Uint32Array.from(asked, (i) => slots[i] as number),
    };
    const answer = await source.load(batch, options);
    const sound = new Set<number>();
    for (const [k, i] of asked.entries()) {
      const outcome = answer.outcomes[k] as Outcome;
      if (outcome === Outcome.LOADED) sound.add(i);
      else this.#noteUnloaded(source, part, i, outcome, outcomeCode(answer, k));
    }
    loaded.push(...sound);
    return positions.filter((i) => !sound.has(i));
  }

  #noteUnloaded(
    { bit }: Tier,
    { keys, rows, result }: Part,
    i: number,
    outcome: Outcome,
    code: ReturnType<typeof outcomeCode>,
  ): void {
    const { map, reasons } = this.#parts;
    const row = rows[i] as number;
    if (outcome === Outcome.CORRUPT) reasons.note(keys, i, "corrupt");
    if (outcome !== Outcome.FAILED && !map.isStoring(row)) map.lose(row, bit);
    // damage says more than a failure, and a failure more than a miss
    const before = result.outcomes[i];
    if (before === Outcome.CORRUPT || (before === Outcome.FAILED && outcome === Outcome.MISS)) return;
    setOutcome(result, i, outcome, code);
  }

  async #put({ target, keys, rows, slots, result, options }: Part, positions: readonly number[]): Promise<void> {
    const batch = {
      keys: selectKeys(keys, positions),
      region: this.#parts.staging().region,
      slots: Uint32Array.from(positions, (i) => slots[i] as number),
    };
    const stored = await target.store(batch, options);
    const storedRows = Int32Array.from(positions, (i) => rows[i] as number);
    await noteStored(this.#parts.map, target, batch.keys, storedRows, stored);
    countMoves(this.#parts, target, "warm", stored);
    for (const [k, i] of positions.entries()) {
      setOutcome(result, i, stored.outcomes[k] as Outcome, outcomeCode(stored, k));
    }
  }
}

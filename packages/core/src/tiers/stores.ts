import type { BlockBatch } from "../backend.js";
import { selectBatch } from "../batches.js";
import type { AuthorOptions } from "../call.js";
import { type BatchResult, Outcome, outcomeCode, uniformResult } from "../outcomes.js";
import type { MissReason } from "./miss-reasons.js";
import { noteStored } from "./noting.js";
import type { StoreParts } from "./parts.js";
import type { Tier } from "./tier.js";

/** By outcome: which of two tiers' answers is the block's. One that took it decides; a failure says more than a refusal. */
const RANKS: Uint8Array = new Uint8Array(8);
RANKS[Outcome.DROPPED] = 1;
RANKS[Outcome.FAILED] = 2;
RANKS[Outcome.PRESENT] = 4;
RANKS[Outcome.STORED] = 5;
/** Of a failure that is the caller's own doing: nobody knows what that tier would have said. */
const CUT_SHORT_RANK = 3;
const TAKEN_RANK_MIN = 4;

/** The stores of a store. */
export class Stores {
  readonly #parts: StoreParts;
  readonly #through: readonly Tier[];
  readonly #back: readonly Tier[];

  constructor(parts: StoreParts) {
    this.#parts = parts;
    this.#through = parts.tiers.filter(({ write }) => write === "through");
    this.#back = parts.tiers.filter(({ write }) => write === "back");
  }

  /** Into all tiers that are written through, at the same time; then, for what none of them took, into the first that is written back and takes it. */
  async store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const { map } = this.#parts;
    const rows = map.hold(batch.keys, true);
    try {
      const through = this.#through.filter(({ isUp }) => isUp);
      const result =
        through.length === 1
          ? await this.#into(through[0] as Tier, batch, rows, options)
          : await this.#intoAll(through, batch, rows, options);
      if (this.#back.length > 0) await this.#writeBack(batch, rows, result, options);
      this.#noteUntaken(batch, result);
      return result;
    } finally {
      map.release(rows, true);
    }
  }

  async #into(tier: Tier, batch: BlockBatch, rows: Int32Array, options: AuthorOptions): Promise<BatchResult> {
    const result = await tier.store(batch, options);
    const noting = noteStored(this.#parts.map, tier, batch.keys, rows, result);
    if (noting !== undefined) await noting;
    return result;
  }

  async #intoAll(
    tiers: readonly Tier[],
    batch: BlockBatch,
    rows: Int32Array,
    options: AuthorOptions,
  ): Promise<BatchResult> {
    const whole = uniformResult(batch.keys.count, Outcome.DROPPED, "UNAVAILABLE");
    const results = await Promise.all(tiers.map((tier) => this.#into(tier, batch, rows, options)));
    for (const [n, result] of results.entries()) {
      for (let i = 0; i < rows.length; i++) merge(whole, i, result, i, n === 0);
    }
    return whole;
  }

  async #writeBack(batch: BlockBatch, rows: Int32Array, result: BatchResult, options: AuthorOptions): Promise<void> {
    const { map, movers } = this.#parts;
    for (const tier of this.#back) {
      const untaken = untakenBy(result);
      if (untaken.length === 0 || options.signal?.aborted) break;
      if (!tier.isUp) continue;
      const part = untaken.length === rows.length ? batch : selectBatch(batch, untaken);
      const partRows = Int32Array.from(untaken, (i) => rows[i] as number);
      const taken = await this.#into(tier, part, partRows, options);
      for (let k = 0; k < untaken.length; k++) merge(result, untaken[k] as number, taken, k, false);
    }
    for (const tier of this.#back) {
      const lacking = rows.filter((row) => {
        const tiers = map.tiers(row);
        return tiers !== 0 && (tiers & tier.bit) === 0;
      });
      if (lacking.length > 0) movers[tier.number]?.add(lacking, "write-back");
    }
  }

  /** Why these blocks will be missing. */
  #noteUntaken({ keys }: BlockBatch, result: BatchResult): void {
    const { reasons } = this.#parts;
    for (let i = 0; i < keys.count; i++) {
      if (isTaken(result, i)) continue;
      reasons.note(keys, i, reasonOf(result, i));
    }
  }
}

function reasonOf(result: BatchResult, index: number): MissReason {
  return isCutShort(result, index) ? "timed_out" : "dropped";
}

function isCutShort(result: BatchResult, index: number): boolean {
  const code = outcomeCode(result, index);
  return code === "DEADLINE" || code === "ABORTED";
}

function isTaken({ outcomes }: BatchResult, index: number): boolean {
  return (RANKS[outcomes[index] as number] as number) >= TAKEN_RANK_MIN;
}

function rankOf(result: BatchResult, index: number): number {
  const outcome = result.outcomes[index] as number;
  return outcome === Outcome.FAILED && isCutShort(result, index) ? CUT_SHORT_RANK : (RANKS[outcome] as number);
}

/** Positions that no tier took. */
function untakenBy(result: BatchResult): number[] {
  const positions: number[] = [];
  for (let i = 0; i < result.outcomes.length; i++) if (!isTaken(result, i)) positions.push(i);
  return positions;
}

function merge(whole: BatchResult, at: number, part: BatchResult, from: number, first: boolean): void {
  if (!first && rankOf(part, from) <= rankOf(whole, at)) return;
  whole.outcomes[at] = part.outcomes[from] as number;
  whole.codes[at] = part.codes[from] as number;
}

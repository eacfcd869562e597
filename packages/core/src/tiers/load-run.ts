import type { BlockBatch } from "../backend.js";
import { selectBatch } from "../batches.js";
import { type AuthorOptions, abortCode } from "../call.js";
import { errorNumber } from "../errors.js";
import { selectKeys } from "../keys.js";
import { type BatchResult, Outcome, outcomeCode, setOutcome, uniformResult } from "../outcomes.js";
import type { Flight, Flights } from "./flights.js";
import { noteStored } from "./noting.js";
import { fastest, openMask, type StoreParts, upMask } from "./parts.js";
import type { Tier } from "./tier.js";
import { unlessAborted } from "./waiting.js";

/** How often a call waits for reads of others before it reads itself. */
const WAITS_MAX = 2;
const BY_MEMORY = 1;

/** One load whose blocks do not simply lie in one tier: asks tier after tier until each block is loaded or no tier is left. */
export class LoadRun {
  readonly #parts: StoreParts;
  readonly #flights: Flights;
  readonly #batch: BlockBatch;
  readonly #options: AuthorOptions;
  readonly #result: BatchResult;
  /** Bits of the tiers that have answered, by position. */
  readonly #tried: Uint8Array;
  /** 1 where a tier that cannot be asked has the block, or may have it. */
  readonly #behindDown: Uint8Array;
  #waits = 0;

  constructor(parts: StoreParts, flights: Flights, batch: BlockBatch, options: AuthorOptions) {
    const { count } = batch.keys;
    this.#parts = parts;
    this.#flights = flights;
    this.#batch = batch;
    this.#options = options;
    this.#result = uniformResult(count, Outcome.MISS);
    this.#tried = new Uint8Array(count);
    this.#behindDown = new Uint8Array(count);
  }

  async run(): Promise<BatchResult> {
    const { signal } = this.#options;
    for (let left = this.#unloaded(); left.length > 0; left = this.#unloaded()) {
      if (signal?.aborted) {
        for (const i of left) setOutcome(this.#result, i, Outcome.FAILED, abortCode(signal));
        break;
      }
      const groups = [...this.#plan(left)];
      if (groups.length === 0) break;
      if (groups.length === 1) await this.#from(...(groups[0] as [Tier, number[]]));
      else await Promise.all(groups.map(([tier, positions]) => this.#from(tier, positions)));
    }
    this.#countMisses();
    return this.#result;
  }

  /** Notes what a tier has answered for the blocks at `positions` (default: all), whose rows are given as they are now. */
  take(tier: Tier, positions: ArrayLike<number> | undefined, part: BatchResult, rows: Int32Array): void {
    for (let k = 0; k < rows.length; k++) {
      const i = positions === undefined ? k : (positions[k] as number);
      this.#tried[i] = (this.#tried[i] as number) | tier.bit;
      this.#takeOne(tier, i, part.outcomes[k] as Outcome, part.codes[k] as number, rows[k] as number);
    }
  }

  #takeOne(tier: Tier, i: number, outcome: Outcome, code: number, row: number): void {
    const { map, reasons } = this.#parts;
    const { outcomes, codes } = this.#result;
    const known = (map.tiers(row) & tier.bit) !== 0;
    if (outcome === Outcome.LOADED) {
      outcomes[i] = outcome;
      codes[i] = 0;
      tier.hits++;
      if (!known && map.isHeld(row) && (map.lost(row) & tier.bit) === 0) map.gain(row, tier.bit);
      return;
    }
    if (outcome === Outcome.CORRUPT) reasons.note(this.#batch.keys, i, "corrupt");
    else if (code === errorNumber("NAMESPACE_MISMATCH")) reasons.note(this.#batch.keys, i, "identity_mismatch");
    else if (outcome === Outcome.MISS && known) reasons.note(this.#batch.keys, i, "evicted");
    const stays = outcome === Outcome.FAILED || map.isStoring(row); // what is being stored now may be there any moment
    if (known && !stays) map.lose(row, tier.bit);
    // damage says more than a failure, and a failure more than a miss
    if (outcomes[i] === Outcome.CORRUPT || (outcomes[i] === Outcome.FAILED && outcome === Outcome.MISS)) return;
    outcomes[i] = outcome;
    codes[i] = code;
  }

  #unloaded(): number[] {
    const left: number[] = [];
    const { outcomes } = this.#result;
    for (let i = 0; i < outcomes.length; i++) if (outcomes[i] !== Outcome.LOADED) left.push(i);
    return left;
  }

  /** Which tier to ask next for each block: the fastest that is known to have it, else the fastest that may. */
  #plan(positions: readonly number[]): Map<Tier, number[]> {
    const { tiers, map } = this.#parts;
    const rows = map.find(selectKeys(this.#batch.keys, positions));
    const up = upMask(tiers);
    const open = openMask(tiers);
    const groups = new Map<Tier, number[]>();
    for (const [k, i] of positions.entries()) {
      const bits = map.tiers(rows[k] as number);
      if (((bits | open) & ~up) !== 0) this.#behindDown[i] = 1;
      const left = up & ~(this.#tried[i] as number);
      const choice = (bits & left) !== 0 ? bits & left : open & left;
      if (choice === 0) continue;
      const tier = fastest(tiers, choice);
      const group = groups.get(tier);
      if (group === undefined) groups.set(tier, [i]);
      else group.push(i);
    }
    return groups;
  }

  /** Loads blocks from one tier; those that another call is reading there are left for the next round, after that call. */
  async #from(tier: Tier, positions: number[]): Promise<void> {
    const { map, tiers } = this.#parts;
    const keys = selectKeys(this.#batch.keys, positions);
    const target = tiers.find(({ number, promote, isUp }) => promote && isUp && number < tier.number);
    const alone = target === undefined || this.#waits >= WAITS_MAX;
    const rows = map.hold(keys, false);
    const followed = new Set<Flight>();
    const flight = alone ? undefined : this.#flights.begin();
    const lead: number[] = [];
    try {
      for (let k = 0; k < rows.length; k++) {
        const row = rows[k] as number;
        const other = flight === undefined ? undefined : this.#flights.get(map.flight(row));
        if (other !== undefined && other !== flight) followed.add(other);
        else lead.push(k);
        if (flight !== undefined && other === undefined) map.setFlight(row, flight.number);
      }
      if (lead.length > 0) await this.#read(tier, target, positions, rows, lead);
    } finally {
      if (flight !== undefined) {
        for (const k of lead) map.setFlight(rows[k] as number, 0);
        flight.land();
      }
      map.release(rows, false);
    }
    if (followed.size > 0) this.#waits++;
    for (const { landed } of followed) await unlessAborted(landed, this.#options.signal);
  }

  async #read(tier: Tier, target: Tier | undefined, positions: number[], rows: Int32Array, lead: number[]) {
    const own = lead.map((k) => positions[k] as number);
    const ownRows = Int32Array.from(lead, (k) => rows[k] as number);
    const whole = own.length === this.#batch.keys.count;
    const part = await tier.load(whole ? this.#batch : selectBatch(this.#batch, own), this.#options);
    this.take(tier, own, part, ownRows);
    if (target === undefined || this.#options.signal?.aborted) return;
    const good: number[] = [];
    for (let k = 0; k < own.length; k++) {
      const row = ownRows[k] as number;
      const removed = (this.#parts.map.lost(row) & tier.bit) !== 0;
      if (part.outcomes[k] === Outcome.LOADED && !removed) good.push(k);
    }
    const goodRows = Int32Array.from(good, (k) => ownRows[k] as number);
    const goodPositions = good.map((k) => own[k] as number);
    await this.#promote(target, goodPositions, goodRows);
    this.#promoteLater(target, tier, goodRows);
  }

  /** Into the fastest tier within the call, out of the slots that have just been filled: that costs one copy of memory, and saves reading the slow
   * tier again, in the background for the tier and by each of those who wait for this read. */
  async #promote(target: Tier, positions: readonly number[], rows: Int32Array): Promise<void> {
    const { map, moved } = this.#parts;
    const lacking: number[] = [];
    for (let k = 0; k < rows.length; k++) if ((map.tiers(rows[k] as number) & target.bit) === 0) lacking.push(k);
    if (lacking.length === 0) return;
    const batch = selectBatch(
      this.#batch,
      lacking.map((k) => positions[k] as number),
    );
    const lackingRows = Int32Array.from(lacking, (k) => rows[k] as number);
    const result = await target.store(batch, { ...this.#options, priority: "load" });
    await noteStored(map, target, batch.keys, lackingRows, result);
    let done = 0;
    for (const outcome of result.outcomes) if (outcome === Outcome.STORED || outcome === Outcome.PRESENT) done++;
    if (done > 0) moved(target, "promotion", "done", done);
    if (done < lacking.length) moved(target, "promotion", "dropped", lacking.length - done);
  }

  /** Into the tiers between, in the background, out of the copy that the fastest one has now. */
  #promoteLater(target: Tier, from: Tier, rows: Int32Array): void {
    const { tiers, movers, map } = this.#parts;
    for (let number = target.number + 1; number < from.number; number++) {
      const tier = tiers[number] as Tier;
      if (!tier.promote) continue;
      const lacking = rows.filter((row) => (map.tiers(row) & tier.bit) === 0);
      if (lacking.length > 0) movers[number]?.add(lacking, "promotion");
    }
  }

  #countMisses(): void {
    const { reasons } = this.#parts;
    const { outcomes, codes } = this.#result;
    const kinds = new Uint8Array(outcomes.length);
    let byMemory = 0;
    for (let i = 0; i < outcomes.length; i++) {
      const outcome = outcomes[i];
      if (outcome === Outcome.LOADED) continue;
      if (outcome === Outcome.CORRUPT) reasons.add("corrupt", 1);
      else if (outcome === Outcome.FAILED) this.#countFailed(i);
      else if (codes[i] === 0 && this.#behindDown[i] === 1) {
        setOutcome(this.#result, i, Outcome.MISS, "UNAVAILABLE");
        reasons.add("tier_down", 1);
      } else {
        kinds[i] = BY_MEMORY;
        byMemory++;
      }
    }
    if (byMemory > 0) reasons.countMissing(this.#batch.keys, kinds, BY_MEMORY);
  }

  #countFailed(i: number): void {
    const { reasons } = this.#parts;
    const code = outcomeCode(this.#result, i);
    const late = code === "DEADLINE" || code === "ABORTED";
    if (late) reasons.note(this.#batch.keys, i, "timed_out");
    reasons.add(late ? "timed_out" : "tier_down", 1);
  }
}

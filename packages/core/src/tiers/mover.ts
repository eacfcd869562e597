import { type KeyBatch, selectKeys } from "../keys.js";
import type { StagingPool } from "../layers/staging-pool.js";
import { type BatchResult, Outcome } from "../outcomes.js";
import type { Region } from "../region.js";
import type { LeavingBlocks } from "./evictions.js";
import type { Move } from "./metrics.js";
import { countMoves } from "./moves.js";
import { noteStored } from "./noting.js";
import { fastest, type StoreParts, upMask } from "./parts.js";
import type { Tier } from "./tier.js";
import { unlessAborted } from "./waiting.js";

/** A copy takes at most this share of the staging memory at once. */
const STAGING_SHARE = 4;

interface Job {
  readonly rows: Int32Array;
  readonly move: Move;
  /** Rows that are done. */
  at: number;
}

/**
 * Copies blocks into one tier in the background: write-back, promotion, cascade. What waits is rows of the map; the bytes come from another tier when
 * their turn comes, through staging memory, verified as any load. So a copy needs no memory of the engine's, and none of its own but the staging.
 *
 * Bounded: what comes beyond `pendingBytesMax` is dropped, as is what waits for a tier that is down, and what its source has lost before its turn.
 */
export class Mover {
  readonly #tier: Tier;
  readonly #parts: StoreParts;
  readonly #pendingMax: number;
  /** Blocks that every tier takes at once. */
  readonly #batchMax: number;
  #pending = 0;
  #queue: Job[] = [];
  #running: Promise<void> | undefined;
  /** The copies that are under way now. */
  readonly #current: Set<Promise<void>> = new Set();
  /** The last copy of blocks that had to leave. */
  #rescued: Promise<void> = Promise.resolve();

  constructor(tier: Tier, parts: StoreParts) {
    this.#tier = tier;
    this.#parts = parts;
    this.#pendingMax = Math.floor(tier.pendingBytesMax / parts.context.blockBytes);
    this.#batchMax = Math.min(...parts.tiers.map(({ backend }) => backend.manifest.limits.batchKeysMax));
  }

  /** Blocks waiting or under way. */
  get pending(): number {
    return this.#pending;
  }

  /** Copies these blocks (of held rows) soon, from whichever tier has them then. */
  add(rows: Int32Array, move: Move): void {
    const taken = this.#admit(rows.length, move);
    if (taken === 0) return;
    const held = rows.slice(0, taken);
    this.#parts.map.holdRows(held, false);
    this.#queue.push({ rows: held, move, at: 0 });
    this.#running ??= this.#run().finally(() => {
      this.#running = undefined;
    });
  }

  /** Takes a copy of blocks that are about to leave another tier, and stores it soon. Settles when they may go. */
  async rescue(leaving: LeavingBlocks, positions: readonly number[]): Promise<void> {
    const rescuing = this.#rescueAll(leaving, positions);
    this.#track(rescuing); // who removes blocks waits for the copies of them
    await rescuing;
  }

  async #rescueAll(leaving: LeavingBlocks, positions: readonly number[]): Promise<void> {
    let at = 0;
    while (at < positions.length && this.#tier.isUp) {
      const slots = await this.#slotsFor(positions.length - at, leaving.patience);
      if (slots.length === 0) break;
      await this.#rescueSome(leaving, positions.slice(at, at + slots.length), slots);
      at += slots.length;
    }
    if (at < positions.length) this.#parts.moved(this.#tier, "cascade", "dropped", positions.length - at);
  }

  /** Staging memory for up to `blocks`, counted as pending: what is free now, or, with patience, a share that others leave, after the copies before
   * have been stored. */
  async #slotsFor(blocks: number, patience: AbortSignal | undefined): Promise<Uint32Array> {
    const pool = this.#parts.staging();
    let most = Math.min(blocks, this.#batchMax);
    if (patience !== undefined) {
      await unlessAborted(this.#rescued, patience);
      most = Math.min(most, this.#share(pool));
    }
    most = Math.min(most, Math.max(0, this.#pendingMax - this.#pending));
    this.#pending += most; // while it waits nobody else takes it
    let slots = pool.takeNow(most);
    if (slots.length === 0 && most > 0 && patience !== undefined) slots = (await pool.take(most, patience)) ?? slots;
    this.#pending -= most - slots.length;
    return slots;
  }

  async #rescueSome(leaving: LeavingBlocks, positions: readonly number[], slots: Uint32Array): Promise<void> {
    const { map, stopping } = this.#parts;
    const pool = this.#parts.staging();
    const chosen = Uint32Array.from(positions);
    const rows = map.hold(selectKeys(leaving.keys, chosen), true);
    const end = (): void => {
      pool.give(slots);
      this.#pending -= slots.length;
      const keys = map.keysOf(rows);
      map.release(rows, true);
      this.#tellLost(keys);
    };
    try {
      const loaded = await leaving.load(chosen, pool.region, slots, { signal: stopping });
      const putting = this.#put(rows, pool.region, slots, loaded, "cascade").finally(end);
      this.#track(putting);
      this.#rescued = putting.catch(() => {}); // has been told
    } catch {
      this.#parts.moved(this.#tier, "cascade", "failed", slots.length);
      end();
    }
  }

  /** When the copies that are under way now have ended. */
  async current(): Promise<void> {
    await Promise.allSettled([...this.#current]);
  }

  /** When nothing is waiting or under way. */
  async idle(): Promise<void> {
    while (this.#running !== undefined || this.#current.size > 0) {
      await this.#running;
      await this.current();
    }
  }

  /** How many blocks are let in; the others are dropped. */
  #admit(blocks: number, move: Move): number {
    const taken = this.#tier.isUp ? Math.min(blocks, Math.max(0, this.#pendingMax - this.#pending)) : 0;
    if (taken < blocks) this.#parts.moved(this.#tier, move, "dropped", blocks - taken);
    this.#pending += taken;
    return taken;
  }

  async #run(): Promise<void> {
    const pool = this.#parts.staging();
    const share = Math.min(this.#batchMax, this.#share(pool));
    for (let job = this.#queue[0]; job !== undefined; job = this.#queue[0]) {
      const slots = await pool.take(Math.min(share, job.rows.length - job.at), this.#parts.stopping);
      if (slots === undefined) return this.#dropAll();
      const rows = job.rows.subarray(job.at, job.at + slots.length);
      job.at += slots.length;
      if (job.at === job.rows.length) this.#queue.shift();
      const copying = this.#copy(rows, pool.region, slots, job.move).finally(() => {
        pool.give(slots);
        this.#pending -= slots.length;
        this.#parts.map.release(rows, false);
      });
      this.#track(copying);
      await copying.catch(() => {});
    }
  }

  #share({ region }: StagingPool): number {
    return Math.max(1, Math.floor(region.rows / STAGING_SHARE));
  }

  #track(copying: Promise<void>): void {
    this.#current.add(copying);
    const ended = (): void => {
      this.#current.delete(copying);
    };
    copying.then(ended, (err: unknown) => {
      ended();
      this.#parts.context.logger.error({ err, tier: this.#tier.name }, "a copy between tiers has failed");
    });
  }

  #dropAll(): void {
    for (const { rows, move, at } of this.#queue) {
      this.#parts.moved(this.#tier, move, "dropped", rows.length - at);
      this.#pending -= rows.length - at;
      this.#parts.map.release(rows.subarray(at), false);
    }
    this.#queue = [];
  }

  /** Copies blocks by the fastest tier that has each of them. */
  async #copy(rows: Int32Array, region: Region, slots: Uint32Array, move: Move): Promise<void> {
    const { map, tiers } = this.#parts;
    const { bit, isUp } = this.#tier;
    const sources = isUp ? upMask(tiers) & ~bit : 0;
    const groups = new Map<Tier, number[]>();
    let dropped = 0;
    for (let i = 0; i < rows.length; i++) {
      const bits = map.tiers(rows[i] as number);
      if ((bits & bit) !== 0) continue; // somebody else has stored it meanwhile
      const mask = bits & sources;
      if (mask === 0) dropped++;
      else groupOf(groups, fastest(tiers, mask)).push(i);
    }
    if (dropped > 0) this.#parts.moved(this.#tier, move, "dropped", dropped);
    for (const [source, positions] of groups) {
      const part = Int32Array.from(positions, (i) => rows[i] as number);
      const partSlots = Uint32Array.from(positions, (i) => slots[i] as number);
      const options = { signal: this.#parts.stopping, priority: "store" } as const;
      const loaded = await source.load({ keys: map.keysOf(part), region, slots: partSlots }, options);
      await this.#put(part, region, partSlots, loaded, move);
    }
  }

  /** Stores what was loaded into staging memory. */
  async #put(rows: Int32Array, region: Region, slots: Uint32Array, loaded: BatchResult, move: Move): Promise<void> {
    const { map, stopping } = this.#parts;
    const good: number[] = [];
    for (let i = 0; i < rows.length; i++) if (loaded.outcomes[i] === Outcome.LOADED) good.push(i);
    if (good.length < rows.length) this.#parts.moved(this.#tier, move, "dropped", rows.length - good.length);
    if (good.length === 0) return;
    const goodRows = Int32Array.from(good, (i) => rows[i] as number);
    const keys = map.keysOf(goodRows);
    const batch = { keys, region, slots: Uint32Array.from(good, (i) => slots[i] as number) };
    const result = await this.#tier.store(batch, { signal: stopping, priority: "store" });
    await noteStored(map, this.#tier, keys, goodRows, result);
    countMoves(this.#parts, this.#tier, move, result);
  }

  #tellLost(keys: KeyBatch): void {
    const { map } = this.#parts;
    const rows = map.find(keys);
    const lost: number[] = [];
    for (let i = 0; i < keys.count; i++) {
      const row = rows[i] as number;
      if (map.tiers(row) === 0 && !map.isStoring(row)) lost.push(i);
    }
    if (lost.length > 0) this.#parts.lost(selectKeys(keys, lost));
  }
}

function groupOf(groups: Map<Tier, number[]>, tier: Tier): number[] {
  const group = groups.get(tier) ?? [];
  groups.set(tier, group);
  return group;
}

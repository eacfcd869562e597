import { AGE_BUCKETS } from "./age-scale.js";
import { WorthOrder } from "./worth-order.js";

/**
 * How many reuses two ways of ranking would have found in a stretch of time, from the sums of UseHistory over it. A tier of constant size keeps what is worth more than
 * some threshold; the threshold is where the time that blocks spent above it fills the room.
 */
export class ExpectedHits {
  readonly #kept: Float64Array;
  readonly #order: WorthOrder;

  /** @param size classes times AGE_BUCKETS. */
  constructor(size: number) {
    this.#kept = new Float64Array(size);
    this.#order = new WorthOrder(size);
  }

  get memoryBytes(): number {
    return this.#kept.byteLength + this.#order.memoryBytes;
  }

  /** Where blocks are ranked by their worth at their class and age.
   * @param room blocks times length of the stretch, in the measure of `exposure`. */
  byWorth(worth: Float64Array, reuses: Float64Array, exposure: Float64Array, room: number): number {
    const kept = this.#kept;
    for (let i = 0; i < kept.length; i++) {
      // a block that has gone at an age does not come back when it would be worth more
      kept[i] = i % AGE_BUCKETS === 0 ? (worth[i] as number) : Math.min(worth[i] as number, kept[i - 1] as number);
    }
    const order = this.#order.sort(kept);
    let hits = 0;
    let left = room;
    for (let rank = order.length - 1; rank >= 0 && left > 0; rank--) {
      const i = order[rank] as number;
      const share = shareOf(exposure[i] as number, left);
      hits += share * (reuses[i] as number);
      left -= share * (exposure[i] as number);
    }
    return hits;
  }

  /** Where the block that was used last ranks highest: LRU. */
  byAge(reuses: Float64Array, exposure: Float64Array, room: number): number {
    let hits = 0;
    let left = room;
    for (let bucket = 0; bucket < AGE_BUCKETS && left > 0; bucket++) {
      let time = 0;
      let used = 0;
      for (let i = bucket; i < reuses.length; i += AGE_BUCKETS) {
        time += exposure[i] as number;
        used += reuses[i] as number;
      }
      const share = shareOf(time, left);
      hits += share * used;
      left -= share * time;
    }
    return hits;
  }
}

function shareOf(time: number, left: number): number {
  return time <= left ? 1 : left / time;
}

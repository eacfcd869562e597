/** Buckets of age: the first up to a 64th of the capacity, then two for each doubling, up to 64 capacities and more. */
export const AGE_BUCKETS = 28;

const FIRST_SHARE = 1 / 64;
const CAPACITY_MIN = 256;
/** Parts of the first bucket: the grain in which `bucket` measures. */
const GRAIN_DOUBLINGS = 4;
const GRAINS: number = 1 << GRAIN_DOUBLINGS;
const GRAINS_MAX = 2 ** 30;

/** Ages in buckets that grow with the age. An age is counted in uses of blocks by the whole tier since the block's own last use: a clock that stands
 * still when nothing happens, and measures how much had to be kept for the block to be found. */
export class AgeScale {
  readonly #grainsAnAge: number;
  /** Age at which each bucket begins, and behind the last one where it would end. */
  readonly #starts: Float64Array = new Float64Array(AGE_BUCKETS + 1);

  constructor(capacityBlocks: number) {
    const first = Math.max(CAPACITY_MIN, capacityBlocks) * FIRST_SHARE;
    for (let i = 1; i <= AGE_BUCKETS; i++) this.#starts[i] = first * 2 ** ((i - 1) / 2);
    this.#grainsAnAge = GRAINS / first;
  }

  bucket(age: number): number {
    const grains = Math.min(GRAINS_MAX, age * this.#grainsAnAge) | 0;
    if (grains < GRAINS) return 0;
    const doublings = 31 - Math.clz32(grains);
    const half = grains >= (1 << doublings) * Math.SQRT2 ? 1 : 0;
    return Math.min(AGE_BUCKETS - 1, 2 * (doublings - GRAIN_DOUBLINGS) + half + 1);
  }

  /** Age at which a bucket begins. */
  start(bucket: number): number {
    return this.#starts[bucket] as number;
  }

  width(bucket: number): number {
    return this.start(bucket + 1) - this.start(bucket);
  }
}

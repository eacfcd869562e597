import { AGE_BUCKETS, type AgeScale } from "./age-scale.js";

/** What is believed before anything was seen: a hazard that falls as one over the age (under which the block used last is worth most, as LRU
 * has it), with the weight of so many reuses. */
const PRIOR_REUSES = 6;
const PRIOR_HAZARD = 0.05;

/**
 * Estimates by class and bucket of age how likely a block is used again from then on, and what it is worth keeping.
 *
 * The hazard h = reuses / exposure of a class is drawn towards that of the group that the class is part of, which is drawn towards a larger one, up to all
 * blocks. The worth at an age is the Gittins index: the most reuses for the time that the block takes up, over all ages up to which it
 * might be kept:  max over b of  P(used again by b) / E(time until it is used again or b).
 */
export class ReuseModel {
  /** Worth by class and bucket: index `kind * AGE_BUCKETS + bucket`. */
  readonly worth: Float64Array;
  readonly #scale: AgeScale;
  readonly #levels: readonly number[];
  /** Hazards of the classes, and of the groups of one level above. */
  #hazards: Float64Array;
  #above: Float64Array;
  readonly #reuses: Float64Array;
  readonly #exposure: Float64Array;
  /** Of one class: that a block is used again within each bucket if it was not before. */
  readonly #chances: Float64Array = new Float64Array(AGE_BUCKETS);

  /** @param levels how many parts each group has, level by level: the class's number counts the last one fastest. */
  constructor(scale: AgeScale, levels: readonly number[]) {
    const classes = levels.reduce((product, parts) => product * parts, 1);
    this.#scale = scale;
    this.#levels = levels;
    this.worth = new Float64Array(classes * AGE_BUCKETS);
    this.#hazards = new Float64Array(classes * AGE_BUCKETS);
    this.#above = new Float64Array(classes * AGE_BUCKETS);
    this.#reuses = new Float64Array(classes * AGE_BUCKETS);
    this.#exposure = new Float64Array(classes * AGE_BUCKETS);
    this.learn(new Float64Array(this.worth.length), new Float64Array(this.worth.length));
  }

  get memoryBytes(): number {
    return this.worth.byteLength * 5;
  }

  /** Estimates anew from the sums of UseHistory. */
  learn(reuses: Float64Array, exposure: Float64Array): void {
    const classes = this.worth.length / AGE_BUCKETS;
    let groups = 1;
    this.#estimate(reuses, exposure, groups, 0);
    for (const parts of this.#levels) {
      groups *= parts;
      [this.#above, this.#hazards] = [this.#hazards, this.#above];
      this.#estimate(reuses, exposure, groups, parts);
    }
    for (let kind = 0; kind < classes; kind++) this.#index(kind * AGE_BUCKETS);
  }

  /** Hazards of `groups` groups, each `parts` of which are one of the level above; 0 at the top. */
  #estimate(reuses: Float64Array, exposure: Float64Array, groups: number, parts: number): void {
    const size = groups * AGE_BUCKETS;
    const span = this.worth.length / groups;
    const sums = this.#reuses.fill(0, 0, size);
    const times = this.#exposure.fill(0, 0, size);
    for (let group = 0; group < groups; group++) {
      for (let i = 0; i < span; i++) {
        const into = group * AGE_BUCKETS + (i % AGE_BUCKETS);
        (sums[into] as number) += reuses[group * span + i] as number;
        (times[into] as number) += exposure[group * span + i] as number;
      }
    }
    for (let at = 0; at < size; at++) {
      const bucket = at % AGE_BUCKETS;
      const prior =
        parts === 0
          ? PRIOR_HAZARD / (this.#scale.start(bucket) + this.#scale.width(bucket) / 2)
          : (this.#above[Math.floor(at / (parts * AGE_BUCKETS)) * AGE_BUCKETS + bucket] as number);
      this.#hazards[at] = ((sums[at] as number) + PRIOR_REUSES) / ((times[at] as number) + PRIOR_REUSES / prior);
    }
  }

  /** The Gittins index of each bucket of one class. */
  #index(first: number): void {
    const chances = this.#chances;
    const hazards = this.#hazards;
    for (let bucket = 0; bucket < AGE_BUCKETS; bucket++) {
      chances[bucket] = -Math.expm1(-(hazards[first + bucket] as number) * this.#scale.width(bucket));
    }
    for (let from = 0; from < AGE_BUCKETS; from++) {
      let unused = 1;
      let used = 0;
      let time = 0;
      let best = 0;
      for (let bucket = from; bucket < AGE_BUCKETS; bucket++) {
        const chance = unused * (chances[bucket] as number);
        used += chance;
        time += chance / (hazards[first + bucket] as number);
        unused -= chance;
        if (used > best * time) best = used / time;
      }
      this.worth[first + from] = best;
    }
  }
}

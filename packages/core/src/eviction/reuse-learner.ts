import { AGE_BUCKETS, type AgeScale } from "./age-scale.js";
import { ExpectedHits } from "./expected-hits.js";
import { ReuseModel } from "./reuse-model.js";
import { UseHistory } from "./use-history.js";

/** Uses of the sample that are remembered, and over how many capacities they reach, or more. */
const HISTORY_USES = 65_536;
const HISTORY_CAPACITIES = 16;
/** The model is estimated anew after so many uses at first, and then after a share of those so far, up to a share of the capacity or a number that makes it cheap. */
const LEARN_USES_MIN = 512;
const LEARN_SHARE = 1 / 16;
const LEARN_CAPACITIES = 1 / 4;
const LEARN_USES_CHEAP = 16_384;
/** Before so many capacities of uses were seen, what comes back late cannot have been seen coming back: rank by age. */
const WARM_UP_CAPACITIES = 1;
/** The stretch on which both rankings are judged. */
const TRIAL_CAPACITIES = 1;
const TRIAL_USES_MIN = 4096;
/** What a trial still weighs at the next one. */
const TRIAL_DECAY = 0.75;
/** Ranking by age is the choice unless the other finds so much more: a difference below is within what a trial can tell. */
const TRIAL_GAIN_MIN = 1.02;

export interface ReuseLearnerOptions {
  readonly scale: AgeScale;
  readonly capacityBlocks: number;
  readonly levels: readonly number[];
  readonly seed: number;
}

/**
 * Learns from the uses of blocks what a block of each class and age is worth. Each time before it learns, it judges what it believed by what has happened
 * since: where ranking by age alone, as LRU does, would have found more, that is the ranking until the next time.
 */
export class ReuseLearner {
  readonly #scale: AgeScale;
  readonly #capacityBlocks: number;
  readonly #share: number;
  readonly #history: UseHistory;
  readonly #model: ReuseModel;
  readonly #expected: ExpectedHits;
  readonly #byAge: Float64Array;
  readonly #reuses: Float64Array;
  readonly #exposure: Float64Array;
  #learnAt: number = LEARN_USES_MIN;
  #uses = 0;
  #ranksByAge = true;
  /** Hits a use of both rankings, later trials weighing more. */
  #byAgeHits = 0;
  #byWorthHits = 0;

  constructor({ scale, capacityBlocks, levels, seed }: ReuseLearnerOptions) {
    const classes = levels.reduce((product, parts) => product * parts, 1);
    const reach = HISTORY_CAPACITIES * capacityBlocks;
    this.#scale = scale;
    this.#capacityBlocks = capacityBlocks;
    this.#share = Math.min(1, HISTORY_USES / reach);
    this.#history = new UseHistory({ usesMax: HISTORY_USES, share: this.#share, seed, classes });
    this.#model = new ReuseModel(scale, levels);
    this.#expected = new ExpectedHits(classes * AGE_BUCKETS);
    this.#reuses = new Float64Array(classes * AGE_BUCKETS);
    this.#exposure = new Float64Array(classes * AGE_BUCKETS);
    this.#byAge = this.#reuses.map((_, i) => 1 / (1 + scale.start(i % AGE_BUCKETS)));
  }

  get memoryBytes(): number {
    const own = this.#byAge.byteLength * 3;
    return own + this.#history.memoryBytes + this.#model.memoryBytes + this.#expected.memoryBytes;
  }

  /** Worth by class and bucket: index `kind * AGE_BUCKETS + bucket`. Another array after `add` has answered true. */
  get worth(): Float64Array {
    return this.#ranksByAge ? this.#byAge : this.#model.worth;
  }

  /** Whether only the age counts at present: where that is equal, the block used longest ago is to go. */
  get ranksByAge(): boolean {
    return this.#ranksByAge;
  }

  /** A block of class `kind` was used at `now` on the clock of uses. Whether worths have changed. */
  add(hash: number, kind: number, now: number): boolean {
    this.#uses++;
    this.#history.add(hash, kind, now);
    if (this.#uses < this.#learnAt) return false;
    const most = Math.max(LEARN_USES_CHEAP, this.#capacityBlocks * LEARN_CAPACITIES);
    this.#learnAt = this.#uses + Math.max(LEARN_USES_MIN, Math.min(this.#uses * LEARN_SHARE, most));
    const rankedByAge = this.#ranksByAge;
    this.#ranksByAge = this.#uses < WARM_UP_CAPACITIES * this.#capacityBlocks || this.#wasAgeBetter(now);
    this.#tally(this.#uses, now);
    this.#model.learn(this.#reuses, this.#exposure);
    return !(rankedByAge && this.#ranksByAge);
  }

  #wasAgeBetter(now: number): boolean {
    const uses = Math.min(this.#uses, Math.max(TRIAL_USES_MIN, Math.ceil(this.#capacityBlocks * TRIAL_CAPACITIES)));
    this.#tally(uses, now);
    const room = this.#capacityBlocks * this.#share * uses;
    const byAge = this.#expected.byAge(this.#reuses, this.#exposure, room);
    const byWorth = this.#expected.byWorth(this.#model.worth, this.#reuses, this.#exposure, room);
    this.#byAgeHits = this.#byAgeHits * TRIAL_DECAY + byAge / uses;
    this.#byWorthHits = this.#byWorthHits * TRIAL_DECAY + byWorth / uses;
    return this.#byWorthHits <= this.#byAgeHits * TRIAL_GAIN_MIN;
  }

  /** Sums up the last `uses` uses. */
  #tally(uses: number, now: number): void {
    const span = Math.min(uses, 2 ** 32 - 1);
    this.#history.tally(this.#scale, span, now, this.#reuses, this.#exposure);
  }
}

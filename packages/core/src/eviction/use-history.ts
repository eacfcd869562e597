import { AGE_BUCKETS, type AgeScale } from "./age-scale.js";

const NONE = -1;

/** Of a use: the block's hash; when, on a clock of uses, modulo 2^32; its age at the next use of the block, 0 if there was none yet; of an
 * open use, the next one of its chain. */
const HASH = 0;
const TIME = 1;
const AGE = 2;
const NEXT = 3;
const WORDS = 4;

export interface UseHistoryOptions {
  /** Uses that are remembered: 22 bytes for each. */
  readonly usesMax: number;
  /** Share of the blocks whose uses are remembered, chosen by hash. */
  readonly share: number;
  readonly seed: number;
  readonly classes: number;
}

/**
 * The last uses of a sample of blocks, and for each, after which age the block was used again. Blocks stay in the sample after they were evicted, so what
 * is learned does not depend on what was kept.
 */
export class UseHistory {
  readonly #seed: number;
  /** Blocks whose mixed hash is below are in the sample. */
  readonly #below: number;
  readonly #usesMax: number;
  /** Words of each use, side by side since they are looked at together: HASH, TIME, AGE, NEXT. */
  readonly #words: Int32Array;
  readonly #classes: Uint8Array;
  /** Open uses by hash: the first of each chain. */
  readonly #chains: Int32Array;
  /** Blocks that were seen beyond each bucket, less those first seen there. */
  readonly #beyond: Float64Array;
  /** Uses that were remembered so far, also those that were forgotten since. */
  #added = 0;

  constructor({ usesMax, share, seed, classes }: UseHistoryOptions) {
    this.#beyond = new Float64Array(classes * AGE_BUCKETS);
    this.#seed = seed | 0;
    this.#below = share * 2 ** 32;
    this.#usesMax = usesMax;
    this.#words = new Int32Array(usesMax * WORDS);
    this.#classes = new Uint8Array(usesMax);
    this.#chains = new Int32Array(2 ** Math.ceil(Math.log2(usesMax))).fill(NONE);
  }

  get memoryBytes(): number {
    return this.#words.byteLength + this.#classes.byteLength + this.#chains.byteLength;
  }

  /** A block of a class was used. */
  add(hash: number, kind: number, now: number): void {
    const mixed = this.#mix(hash);
    if (mixed >= this.#below) return;
    const chain = mixed & (this.#chains.length - 1);
    const words = this.#words;
    const before = this.#find(chain, hash | 0);
    if (before !== NONE) {
      const age = (now - (words[before * WORDS + TIME] as number)) >>> 0;
      words[before * WORDS + AGE] = Math.max(1, age);
      this.#unlink(chain, before);
    }
    const place = this.#added % this.#usesMax;
    const at = place * WORDS;
    if (this.#added >= this.#usesMax && words[at + AGE] === 0) {
      this.#unlink(this.#mix(words[at + HASH] as number) & (this.#chains.length - 1), place);
    }
    this.#added++;
    words[at + HASH] = hash;
    words[at + TIME] = now;
    words[at + AGE] = 0;
    words[at + NEXT] = this.#chains[chain] as number;
    this.#classes[place] = kind;
    this.#chains[chain] = place;
  }

  /**
   * Sums what happened in the last `span` of the clock, by class and bucket of age (index `kind * AGE_BUCKETS + bucket`).
   * @param reuses becomes the number of blocks that were used again at that age.
   * @param exposure becomes the time that blocks spent at that age: blocks times uses of the tier.
   */
  tally(scale: AgeScale, span: number, now: number, reuses: Float64Array, exposure: Float64Array): void {
    reuses.fill(0);
    exposure.fill(0);
    const beyond = this.#beyond;
    beyond.fill(0, 0, reuses.length);
    const words = this.#words;
    const classes = this.#classes;
    const uses = Math.min(this.#added, this.#usesMax);
    for (let i = 0; i < uses; i++) {
      const again = (words[i * WORDS + AGE] as number) >>> 0;
      const old = (now - (words[i * WORDS + TIME] as number)) >>> 0;
      const from = Math.max(0, old - span);
      const to = again === 0 ? old : again;
      if (to <= from && from > 0) continue;
      const first = (classes[i] as number) * AGE_BUCKETS;
      const bucket = scale.bucket(to);
      if (again !== 0) (reuses[first + bucket] as number)++;
      (beyond[first + bucket] as number)++;
      (exposure[first + bucket] as number) += to - scale.start(bucket);
      if (from === 0) continue;
      const begin = scale.bucket(from);
      (beyond[first + begin] as number)--;
      (exposure[first + begin] as number) -= from - scale.start(begin);
    }
    for (let first = 0; first < reuses.length; first += AGE_BUCKETS) {
      let above = 0;
      for (let bucket = AGE_BUCKETS - 1; bucket >= 0; bucket--) {
        (exposure[first + bucket] as number) += above * scale.width(bucket);
        above += beyond[first + bucket] as number;
      }
    }
  }

  #find(chain: number, hash: number): number {
    let place = this.#chains[chain] as number;
    const words = this.#words;
    while (place !== NONE && words[place * WORDS + HASH] !== hash) place = words[place * WORDS + NEXT] as number;
    return place;
  }

  #unlink(chain: number, place: number): void {
    const words = this.#words;
    const next = words[place * WORDS + NEXT] as number;
    let at = this.#chains[chain] as number;
    if (at === place) {
      this.#chains[chain] = next;
      return;
    }
    while (words[at * WORDS + NEXT] !== place) at = words[at * WORDS + NEXT] as number;
    words[at * WORDS + NEXT] = next;
  }

  #mix(hash: number): number {
    const mixed = Math.imul(hash ^ (hash >>> 15) ^ this.#seed, 0x2c1b3c6d);
    return Math.imul(mixed ^ (mixed >>> 12), 0x297a2d39) >>> 0;
  }
}

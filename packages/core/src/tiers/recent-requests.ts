import type { BlockUse } from "../eviction/policy.js";
import type { KeyBatch } from "../keys.js";
import { batchWords, hashWords, wordsOfKey } from "../prefix-index/key-words.js";

/** Places, a power of two: some hundred requests of some hundred blocks. */
const PLACES = 2 ** 15;
const COUNT_MAX = 0xffff;

/**
 * What the last lookups told of the requests that made them: where each key stands, how long its request is, how much of it was found. A store or
 * load comes with a part of a request's keys only; this says what the rest of it was. Ten bytes a place, one key a place, the newer one wins.
 */
export class RecentRequests {
  readonly #words: number;
  /** Hash of the key in each place; a place that nobody has used is 0, and its facts are, too. */
  readonly #hashes: Int32Array = new Int32Array(PLACES);
  readonly #positions: Uint16Array = new Uint16Array(PLACES);
  readonly #requestBlocks: Uint16Array = new Uint16Array(PLACES);
  readonly #foundBlocks: Uint16Array = new Uint16Array(PLACES);

  constructor(keyBytes: number) {
    this.#words = wordsOfKey(keyBytes);
  }

  get memoryBytes(): number {
    return PLACES * 10;
  }

  /** Remembers a request by the keys that it looked up, in prefix order. */
  note(keys: KeyBatch, foundBlocks: number): void {
    const words = batchWords(keys);
    const requestBlocks = Math.min(keys.count, COUNT_MAX);
    const found = Math.min(foundBlocks, COUNT_MAX);
    for (let i = 0; i < keys.count; i++) {
      const hash = hashWords(words, i * this.#words, this.#words);
      const place = hash & (PLACES - 1);
      this.#hashes[place] = hash;
      this.#positions[place] = Math.min(i, COUNT_MAX);
      this.#requestBlocks[place] = requestBlocks;
      this.#foundBlocks[place] = found;
    }
  }

  /** Fills in what is known of key `index`. Of a key that no lookup has named: a request of the keys of this batch, none of which were found. */
  describe(keys: KeyBatch, words: Int32Array, index: number, use: BlockUse): void {
    const hash = hashWords(words, index * this.#words, this.#words);
    const place = hash & (PLACES - 1);
    const known = this.#hashes[place] === hash && this.#requestBlocks[place] !== 0;
    use.position = known ? (this.#positions[place] as number) : index;
    use.requestBlocks = known ? (this.#requestBlocks[place] as number) : keys.count;
    use.foundBlocks = known ? (this.#foundBlocks[place] as number) : 0;
  }
}

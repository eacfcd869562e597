/** Steps in which worths are told apart, for each doubling. */
const STEPS = 2 ** 16;

/** Indices in the order of what they are worth, the least first; of two worth the same, the greater index first. No allocation. */
export class WorthOrder {
  readonly #keys: Float64Array;
  readonly #indices: Int32Array;

  constructor(count: number) {
    this.#keys = new Float64Array(count);
    this.#indices = new Int32Array(count);
  }

  get memoryBytes(): number {
    return this.#keys.byteLength + this.#indices.byteLength;
  }

  /** The indices, valid until the next call. */
  sort(worth: Float64Array): Int32Array {
    const keys = this.#keys;
    const count = keys.length;
    for (let i = 0; i < count; i++) {
      // one number of worth and index, since only plain numbers sort without a callback
      const steps = Math.round(Math.log2(Math.max(Number.MIN_VALUE, worth[i] as number)) * STEPS);
      keys[i] = steps * count + (count - 1 - i);
    }
    keys.sort();
    for (let rank = 0; rank < count; rank++) {
      const key = keys[rank] as number;
      this.#indices[rank] = count - 1 - (key - Math.floor(key / count) * count);
    }
    return this.#indices;
  }
}

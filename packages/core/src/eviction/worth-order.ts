/** Steps in which worths are told apart, for each doubling. */
const STEPS = 2 ** 8;
/** Below these worths all are the same: log2 of it. */
const LEAST = -60;

/** Indices (at most 100,000) in the order of what they are worth, the least first; of two worth the same (to 0.3 %), the greater index first. No allocation. */
export class WorthOrder {
  readonly #keys: Int32Array;
  readonly #indices: Int32Array;

  constructor(count: number) {
    this.#keys = new Int32Array(count);
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
      const steps = Math.round(Math.max(0, Math.log2(worth[i] as number) - LEAST) * STEPS);
      keys[i] = steps * count + (count - 1 - i);
    }
    keys.sort();
    for (let rank = 0; rank < count; rank++) {
      const key = keys[rank] as number;
      this.#indices[rank] = count - 1 - (key % count);
    }
    return this.#indices;
  }
}

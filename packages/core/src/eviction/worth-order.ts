/** Steps in which worths are told apart, for each doubling. */
const STEPS = 2 ** 8;
/** Below these worths all are the same: log2 of it. */
const LEAST = -60;
/** Above these, all are the same again: worths from 2^67 on. */
const STEPS_BITS = 15;
const STEPS_MAX: number = 2 ** STEPS_BITS - 1;
const DIGIT_BITS = 8;
const DIGITS: number = 2 ** DIGIT_BITS;
const DIGIT_MASK: number = DIGITS - 1;

/** Indices in the order of what they are worth, the least first; of two worth the same (to 0.3 %), the greater index first. No allocation. */
export class WorthOrder {
  readonly #steps: Int32Array;
  #indices: Int32Array;
  /** For the passes of the sort. */
  #others: Int32Array;
  readonly #places: Int32Array = new Int32Array(DIGITS);

  constructor(count: number) {
    this.#steps = new Int32Array(count);
    this.#indices = new Int32Array(count);
    this.#others = new Int32Array(count);
  }

  get memoryBytes(): number {
    return this.#steps.byteLength * 3 + this.#places.byteLength;
  }

  /** The indices, valid until the next call. */
  sort(worth: Float64Array): Int32Array {
    const steps = this.#steps;
    for (let i = 0; i < steps.length; i++) {
      steps[i] = Math.min(STEPS_MAX, Math.round(Math.max(0, Math.log2(worth[i] as number) - LEAST) * STEPS));
      this.#indices[i] = steps.length - 1 - i;
    }
    // by one digit after the other, the lowest first: each pass keeps the order of the one before where its digit is the same
    for (let shift = 0; shift < STEPS_BITS; shift += DIGIT_BITS) this.#sortByDigit(shift);
    return this.#indices;
  }

  #sortByDigit(shift: number): void {
    const steps = this.#steps;
    const places = this.#places.fill(0);
    for (let i = 0; i < steps.length; i++) (places[((steps[i] as number) >> shift) & DIGIT_MASK] as number)++;
    let before = 0;
    for (let digit = 0; digit < DIGITS; digit++) {
      const count = places[digit] as number;
      places[digit] = before;
      before += count;
    }
    for (let i = 0; i < steps.length; i++) {
      const index = this.#indices[i] as number;
      const digit = ((steps[index] as number) >> shift) & DIGIT_MASK;
      this.#others[places[digit] as number] = index;
      (places[digit] as number)++;
    }
    [this.#indices, this.#others] = [this.#others, this.#indices];
  }
}

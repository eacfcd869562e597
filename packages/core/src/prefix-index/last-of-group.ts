import { NO_ROW } from "./block-table.js";

/** Models have a handful of KV cache groups; of a batch with more, the oldest are forgotten, which costs links and nothing else. */
const GROUPS_MAX = 64;

/** The last row of each group in a batch: chains of the groups of a hybrid model come interleaved. */
export class LastOfGroup {
  readonly #groups: Int32Array = new Int32Array(GROUPS_MAX);
  readonly #rows: Int32Array = new Int32Array(GROUPS_MAX);
  #count = 0;
  #next = 0;

  clear(): void {
    this.#count = 0;
    this.#next = 0;
  }

  /** Makes `row` the last of the group; the one before it, or NO_ROW. */
  swap(group: number, row: number): number {
    for (let i = 0; i < this.#count; i++) {
      if (this.#groups[i] !== group) continue;
      const before = this.#rows[i] as number;
      this.#rows[i] = row;
      return before;
    }
    this.#groups[this.#next] = group;
    this.#rows[this.#next] = row;
    this.#next = (this.#next + 1) % GROUPS_MAX;
    this.#count = Math.min(this.#count + 1, GROUPS_MAX);
    return NO_ROW;
  }
}

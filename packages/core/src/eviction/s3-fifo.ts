import { type BlockTable, NO_ROW } from "../prefix-index/block-table.js";
import { Ghosts } from "./ghosts.js";
import type { BlockUse, EvictionPolicy, PolicyOptions } from "./policy.js";
import { RowLists } from "./row-lists.js";
import { grownUint8, rowsFor } from "./rows.js";

const SMALL = 0;
const MAIN = 1;
/** Share of the blocks that may be on probation. */
const SMALL_SHARE = 0.1;
/** Uses that are counted, after which a block stays in the main queue as many rounds. */
const USES_MAX = 3;
/** Bit of a row's state: in the main queue. The bits below count uses. */
const IN_MAIN = 4;

/**
 * S3-FIFO (Yang et al., SOSP 2023), for chains: new blocks are on probation in a small queue, and go unless they were used there or left it not
 * long ago; a main queue gives another round for each use. A block with children is never let go before them. 9 bytes a row and five
 * a block of the capacity for the ghosts.
 */
export class S3FifoPolicy implements EvictionPolicy {
  readonly name: string = "s3-fifo";
  readonly #table: BlockTable;
  readonly #queues: RowLists = new RowLists(2);
  readonly #ghosts: Ghosts;
  #state: Uint8Array = new Uint8Array(0);
  #size = 0;
  #small = 0;

  constructor({ table, capacityBlocks, seed = 1 }: PolicyOptions) {
    this.#table = table;
    this.#ghosts = new Ghosts(capacityBlocks * (1 - SMALL_SHARE), seed);
  }

  get memoryBytes(): number {
    return this.#queues.memoryBytes + this.#ghosts.memoryBytes + this.#state.byteLength;
  }

  inserted(row: number, use: BlockUse): void {
    if (this.#queues.has(row)) {
      this.used(row, use);
      return;
    }
    if (row >= this.#state.length) this.#state = grownUint8(this.#state, rowsFor(row));
    this.#size++;
    this.#enter(row, this.#ghosts.take(this.#table.hash(row)) >= 0 ? MAIN : SMALL, 0);
  }

  used(row: number, use: BlockUse): void {
    if (!this.#queues.has(row)) {
      this.inserted(row, use);
      return;
    }
    if (((this.#state[row] as number) & USES_MAX) < USES_MAX) (this.#state[row] as number)++;
  }

  removed(row: number): void {
    if (!this.#queues.has(row)) return;
    if (this.#leave(row) === SMALL) this.#ghosts.add(this.#table.hash(row), 0);
    this.#size--;
  }

  victim(_nowMs: number): number {
    // each step takes a use from a block or moves it on; after so many only blocks with children can be left
    for (let left = this.#size * (USES_MAX + 2); left > 0; left--) {
      const queue = this.#next();
      const row = this.#queues.back(queue);
      const uses = (this.#state[row] as number) & USES_MAX;
      if (uses === 0 && this.#table.children(row) === 0) return row;
      this.#leave(row);
      this.#enter(row, MAIN, queue === MAIN ? Math.max(0, uses - 1) : 0);
    }
    return this.#size === 0 ? NO_ROW : this.#queues.back(this.#next());
  }

  worth(row: number, _nowMs: number): number {
    return this.#state[row] ?? 0;
  }

  /** The queue that the next victim comes from. */
  #next(): number {
    if (this.#small === this.#size) return SMALL;
    return this.#small > this.#size * SMALL_SHARE ? SMALL : MAIN;
  }

  #enter(row: number, queue: number, uses: number): void {
    this.#queues.push(queue, row);
    this.#state[row] = queue === MAIN ? IN_MAIN | uses : uses;
    if (queue === SMALL) this.#small++;
  }

  /** The queue that it was in. */
  #leave(row: number): number {
    const queue = ((this.#state[row] as number) & IN_MAIN) === 0 ? SMALL : MAIN;
    this.#queues.remove(queue, row);
    if (queue === SMALL) this.#small--;
    return queue;
  }
}

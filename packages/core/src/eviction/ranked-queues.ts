import { NO_ROW } from "../prefix-index/block-table.js";
import type { RowLists } from "./row-lists.js";
import { WorthOrder } from "./worth-order.js";

/** Lists of rows, each with a worth, and which list that holds any is worth least: a bit a list in the order of worth, and a bit a word of these, so that
 * finding it takes a few steps whatever there is. */
export class RankedQueues {
  readonly #rows: RowLists;
  readonly #order: WorthOrder;
  readonly #rankOf: Int32Array;
  readonly #queueAt: Int32Array;
  readonly #words: Uint32Array;
  readonly #filled: Uint32Array;
  readonly #queues: number;

  /** @param rows of which lists 0 … queues - 1 become the queues; others may be used beside them. */
  constructor(rows: RowLists, queues: number) {
    this.#queues = queues;
    this.#rows = rows;
    this.#order = new WorthOrder(queues);
    this.#rankOf = new Int32Array(queues);
    this.#queueAt = new Int32Array(queues);
    this.#words = new Uint32Array(Math.ceil(queues / 32));
    this.#filled = new Uint32Array(Math.ceil(queues / 1024));
    this.rank(new Float64Array(queues));
  }

  /** Without the rows. */
  get memoryBytes(): number {
    return (
      this.#rows.memoryBytes +
      this.#order.memoryBytes +
      this.#queues * 8 +
      (this.#words.length + this.#filled.length) * 4
    );
  }

  /** Sets the worth of every queue. Of two that are worth the same, the one with the greater number is least. */
  rank(worth: Float64Array): void {
    const order = this.#order.sort(worth);
    this.#words.fill(0);
    this.#filled.fill(0);
    for (let rank = 0; rank < order.length; rank++) {
      const queue = order[rank] as number;
      this.#rankOf[queue] = rank;
      this.#queueAt[rank] = queue;
      if (this.#rows.back(queue) !== NO_ROW) this.#mark(rank);
    }
  }

  /** The queue worth least of those that hold any, or -1. */
  least(): number {
    for (let i = 0; i < this.#filled.length; i++) {
      const filled = this.#filled[i] as number;
      if (filled === 0) continue;
      const word = i * 32 + lowestBit(filled);
      return this.#queueAt[word * 32 + lowestBit(this.#words[word] as number)] as number;
    }
    return -1;
  }

  /** The row that has been in the queue longest, or NO_ROW. */
  oldest(queue: number): number {
    return this.#rows.back(queue);
  }

  push(queue: number, row: number): void {
    if (this.#rows.back(queue) === NO_ROW) this.#mark(this.#rankOf[queue] as number);
    this.#rows.push(queue, row);
  }

  /** Adds a row as the oldest. */
  pushOldest(queue: number, row: number): void {
    if (this.#rows.back(queue) === NO_ROW) this.#mark(this.#rankOf[queue] as number);
    this.#rows.pushBack(queue, row);
  }

  remove(queue: number, row: number): void {
    this.#rows.remove(queue, row);
    if (this.#rows.back(queue) === NO_ROW) this.#clear(this.#rankOf[queue] as number);
  }

  #mark(rank: number): void {
    const word = rank >>> 5;
    (this.#words[word] as number) |= 1 << (rank & 31);
    (this.#filled[word >>> 5] as number) |= 1 << (word & 31);
  }

  #clear(rank: number): void {
    const word = rank >>> 5;
    (this.#words[word] as number) &= ~(1 << (rank & 31));
    if (this.#words[word] === 0) (this.#filled[word >>> 5] as number) &= ~(1 << (word & 31));
  }
}

/** Number of the lowest bit that is set. */
function lowestBit(word: number): number {
  return 31 - Math.clz32(word & -word);
}

import { NO_ROW } from "../prefix-index/block-table.js";
import { grownInt32, rowsFor } from "./rows.js";

/** Before a row that is in no list. */
const OUTSIDE = -2;

/**
 * Doubly linked lists of rows over two shared arrays: 8 bytes a row, however many lists. A row is in one list at most; the caller knows in
 * which. Lists run from the front (where rows are added) to the back.
 */
export class RowLists {
  #before: Int32Array = new Int32Array(0);
  #behind: Int32Array = new Int32Array(0);
  readonly #front: Int32Array;
  readonly #back: Int32Array;

  constructor(lists: number) {
    this.#front = new Int32Array(lists).fill(NO_ROW);
    this.#back = new Int32Array(lists).fill(NO_ROW);
  }

  get memoryBytes(): number {
    return this.#before.byteLength * 2 + this.#front.byteLength * 2;
  }

  /** Whether the row is in some list. */
  has(row: number): boolean {
    return row >= 0 && row < this.#before.length && this.#before[row] !== OUTSIDE;
  }

  /** The last row of a list, or NO_ROW. */
  back(list: number): number {
    return this.#back[list] as number;
  }

  /** The row before this one, towards the front, or NO_ROW. */
  before(row: number): number {
    return this.#before[row] as number;
  }

  /** Adds a row that is in no list at the front. */
  push(list: number, row: number): void {
    if (row >= this.#before.length) this.#grow(row);
    const first = this.#front[list] as number;
    this.#before[row] = NO_ROW;
    this.#behind[row] = first;
    this.#front[list] = row;
    if (first === NO_ROW) this.#back[list] = row;
    else this.#before[first] = row;
  }

  /** Adds a row that is in no list at the back. */
  pushBack(list: number, row: number): void {
    if (row >= this.#before.length) this.#grow(row);
    const last = this.#back[list] as number;
    this.#before[row] = last;
    this.#behind[row] = NO_ROW;
    this.#back[list] = row;
    if (last === NO_ROW) this.#front[list] = row;
    else this.#behind[last] = row;
  }

  /** Takes a row out of the list that it is in. */
  remove(list: number, row: number): void {
    const before = this.#before[row] as number;
    const behind = this.#behind[row] as number;
    if (before === NO_ROW) this.#front[list] = behind;
    else this.#behind[before] = behind;
    if (behind === NO_ROW) this.#back[list] = before;
    else this.#before[behind] = before;
    this.#before[row] = OUTSIDE;
  }

  #grow(row: number): void {
    const rows = rowsFor(row);
    this.#before = grownInt32(this.#before, rows, OUTSIDE);
    this.#behind = grownInt32(this.#behind, rows, NO_ROW);
  }
}

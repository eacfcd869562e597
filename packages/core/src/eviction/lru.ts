import type { BlockTable } from "../prefix-index/block-table.js";
import type { BlockUse, EvictionPolicy, PolicyOptions } from "./policy.js";
import { RowLists } from "./row-lists.js";

const LIST = 0;

/** Lets go of the block that was used longest ago. 8 bytes a row. */
export class LruPolicy implements EvictionPolicy {
  readonly name: string = "lru";
  readonly #table: BlockTable;
  readonly #rows: RowLists = new RowLists(1);
  #size = 0;

  constructor({ table }: PolicyOptions) {
    this.#table = table;
  }

  get memoryBytes(): number {
    return this.#rows.memoryBytes;
  }

  inserted(row: number, _use: BlockUse): void {
    if (this.#rows.has(row)) this.#rows.remove(LIST, row);
    else this.#size++;
    this.#rows.push(LIST, row);
  }

  used(row: number, use: BlockUse): void {
    this.inserted(row, use);
  }

  removed(row: number): void {
    if (!this.#rows.has(row)) return;
    this.#rows.remove(LIST, row);
    this.#size--;
  }

  victim(_nowMs: number): number {
    const rows = this.#rows;
    const oldest = rows.back(LIST);
    let row = oldest;
    for (let left = this.#size; left > 0; left--) {
      if (this.#table.children(row) === 0) return row;
      // its children were used since: so was it, and it is not looked at again before them
      rows.remove(LIST, row);
      rows.push(LIST, row);
      row = rows.back(LIST);
    }
    return oldest;
  }

  worth(row: number, _nowMs: number): number {
    return this.#table.lastUseMs(row);
  }
}

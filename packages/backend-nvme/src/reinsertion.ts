import { NO_ROW } from "@kvferry/core";
import type { Shelf } from "./shelf.js";

const PAGE_BYTES = 4096;

/** Rows of one shelf to be copied, in this order. */
export interface KeptRows {
  readonly shelf: Shelf;
  readonly rows: number[];
}

/** Live blocks of one segment and one shelf. */
class Candidates {
  readonly shelf: Shelf;
  readonly rows: readonly number[];
  /** Those chosen, parents before their children. */
  readonly kept: number[] = [];
  readonly #here: Set<number>;
  readonly #chosen: Set<number> = new Set();

  constructor(shelf: Shelf, rows: readonly number[]) {
    this.shelf = shelf;
    this.rows = rows;
    this.#here = new Set(rows);
  }

  /** Those used more than most since they were written, most first. */
  usedMore(): number[] {
    const { shelf, rows } = this;
    return rows.filter((row) => shelf.isUsedMore(row)).sort((a, b) => shelf.uses(b) - shelf.uses(a)); // stable: of equals the one written first
  }

  /** Chooses a row and the blocks before it in its chain that lie here too, from the first one on, as many as fit: a child without its
   * parent cannot be found. Returns the bytes taken. */
  choose(row: number, bytesMax: number): number {
    const chain: number[] = [];
    for (let at = row; at !== NO_ROW && this.#here.has(at) && !this.#chosen.has(at); at = this.shelf.index.parent(at)) {
      chain.push(at);
    }
    const fitting = Math.min(chain.length, Math.floor(bytesMax / this.shelf.paddedBytes));
    for (let i = 0; i < fitting; i++) {
      const each = chain[chain.length - 1 - i] as number;
      this.#chosen.add(each);
      this.kept.push(each);
    }
    return fitting * this.shelf.paddedBytes;
  }
}

/** What of a segment is to be copied before it is given up: at most `bytesMax` bytes of payload, parents before their children. */
export function chooseKept(live: ReadonlyMap<Shelf, readonly number[]>, bytesMax: number): KeptRows[] {
  let left = bytesMax;
  const kept: KeptRows[] = [];
  for (const [shelf, rows] of live) {
    const candidates = new Candidates(shelf, rows);
    for (const row of candidates.usedMore()) {
      if (left < PAGE_BYTES) break;
      left -= candidates.choose(row, left);
    }
    if (candidates.kept.length > 0) kept.push({ shelf, rows: candidates.kept });
  }
  return kept;
}

import { NO_ROW } from "@kvferry/core";
import type { SegmentTable } from "./segment-table.js";
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
  readonly rows: number[] = [];
  /** Those chosen, parents before their children. */
  readonly kept: number[] = [];
  readonly #here: Set<number> = new Set();
  readonly #chosen: Set<number> = new Set();

  constructor(shelf: Shelf) {
    this.shelf = shelf;
  }

  add(row: number): void {
    this.rows.push(row);
    this.#here.add(row);
  }

  /** Which of them are worth keeping, most worth first: what the user of the namespace says, else those used more than most since they were written. */
  worthKeeping(): number[] {
    const { shelf, rows } = this;
    const worth = [...shelf.users].find((user) => user.worth !== undefined)?.worth;
    const says = worth?.(shelf.index.keysOf(rows));
    const kept =
      says === undefined ? rows.filter((row) => shelf.isUsedMore(row)) : rows.filter((_, i) => says[i] === 1);
    return kept.sort((a, b) => shelf.uses(b) - shelf.uses(a)); // stable: of equals the one written first
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
export function chooseKept(
  table: SegmentTable,
  segment: number,
  shelfOf: (id: number) => Shelf | undefined,
  bytesMax: number,
): KeptRows[] {
  const byShelf = new Map<number, Candidates>();
  table.forEachEntry(segment, (id, row, offset4k) => {
    const shelf = shelfOf(id);
    if (shelf === undefined || !shelf.isAt(row, offset4k)) return;
    let candidates = byShelf.get(id);
    if (candidates === undefined) {
      candidates = new Candidates(shelf);
      byShelf.set(id, candidates);
    }
    candidates.add(row);
  });
  let left = bytesMax;
  for (const candidates of byShelf.values()) {
    for (const row of candidates.worthKeeping()) {
      if (left < PAGE_BYTES) break;
      left -= candidates.choose(row, left);
    }
  }
  return [...byShelf.values()].map(({ shelf, kept }) => ({ shelf, rows: kept })).filter(({ rows }) => rows.length > 0);
}

import type { SegmentTable } from "./segment-table.js";
import type { Shelf } from "./shelf.js";

/** Rows of the blocks that can be loaded from a segment, by shelf, in the order in which they were written. */
export function liveRows(table: SegmentTable, segment: number, shelves: readonly Shelf[]): Map<Shelf, number[]> {
  const byShelf = new Map<Shelf, number[]>();
  table.forEachEntry(segment, (id, row, offset4k) => {
    const shelf = shelves[id];
    if (shelf === undefined || !shelf.isAt(row, offset4k)) return;
    const rows = byShelf.get(shelf);
    if (rows === undefined) byShelf.set(shelf, [row]);
    else rows.push(row);
  });
  return byShelf;
}

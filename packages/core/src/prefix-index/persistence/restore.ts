import { setImmediate } from "node:timers/promises";
import { type BlockRecords, CHUNK_ROWS } from "../block-records.js";
import { NO_ROW } from "../block-table.js";
import { KeyTable } from "../key-table.js";

/** Records as files hold them, made into what an index works on. */
export interface RestoredBlocks {
  readonly records: BlockRecords;
  readonly table: KeyTable;
  readonly size: number;
}

/**
 * Counts children, links free rows and fills the key table. Lets the event loop go on after every chunk.
 * @param trusted whether the records are of one moment. If not, links are forgotten (lookups tell them again), and of two records of one key one.
 */
export async function restoreBlocks(records: BlockRecords, trusted: boolean): Promise<RestoredBlocks> {
  let size = 0;
  await forEachRow(records, (row) => {
    records.clearChildren(row);
    if (records.tiers(row) === 0 || !trusted) records.setParentLink(row, NO_ROW);
    if (records.tiers(row) !== 0) size++;
  });
  await forEachRow(records, (row) => {
    const parent = records.parentLink(row);
    if (parent === NO_ROW) return;
    if (parent >= 0 && parent < records.rowLimit && parent !== row) records.addChild(parent);
    else records.setParentLink(row, NO_ROW);
  });
  const table = new KeyTable(records, size);
  await forEachRow(records, (row) => {
    const hash = records.hash(row);
    if (!trusted && records.tiers(row) !== 0 && table.find(records.chunk(row), records.at(row), hash) !== NO_ROW) {
      records.setTiers(row, 0);
      size--;
    }
    if (records.tiers(row) === 0 && records.children(row) === 0) records.release(row);
    else table.add(hash, row);
  });
  return { records, table, size };
}

async function forEachRow(records: BlockRecords, visit: (row: number) => void): Promise<void> {
  for (let first = 0; first < records.rowLimit; first += CHUNK_ROWS) {
    const end = Math.min(first + CHUNK_ROWS, records.rowLimit);
    for (let row = first; row < end; row++) visit(row);
    await setImmediate();
  }
}

import {
  type AuthorOptions,
  type BatchResult,
  type BlockBatch,
  type Clock,
  mergeResult,
  NO_ROW,
  Outcome,
  selectBatch,
  uniformResult,
} from "@kvferry/core";
import { type SegmentDrive, segmentOf } from "@kvferry/native";
import { RowState, type Shelf } from "./shelf.js";
import type { UseCounts } from "./use-counts.js";

export interface ReaderParts {
  readonly drive: SegmentDrive;
  readonly reading: UseCounts;
  readonly clock: Clock;
  /** Blocks that were found damaged: rows that lie where they lay when they were read. */
  damaged(shelf: Shelf, rows: readonly number[]): void;
}

/** Loads blocks from where the shelf says that they lie. A segment is not given up while a load reads it. */
export async function loadBlocks(
  { drive, reading, clock, damaged }: ReaderParts,
  shelf: Shelf,
  batch: BlockBatch,
  { signal, priority }: AuthorOptions,
): Promise<BatchResult> {
  const rows = shelf.find(batch.keys);
  const positions: number[] = [];
  for (let i = 0; i < rows.length; i++) {
    const row = rows[i] as number;
    if (row !== NO_ROW && shelf.state(row) === RowState.STORED) positions.push(i);
  }
  const result = uniformResult(batch.keys.count, Outcome.MISS);
  if (positions.length === 0) return result;
  const whole = positions.length === batch.keys.count;
  const { keys, region, slots } = whole ? batch : selectBatch(batch, positions);
  const offsets4k = new Uint32Array(positions.length);
  const checksums = new Uint32Array(positions.length);
  for (const [i, position] of positions.entries()) {
    const row = rows[position] as number;
    offsets4k[i] = shelf.offset4k(row);
    checksums[i] = shelf.checksum(row);
  }
  const segments = segmentsOf(offsets4k, drive.segmentBytes);
  for (const segment of segments) reading.begin(segment);
  try {
    const { rowBytes, bytes: memory } = region;
    const io = { keys: keys.bytes, memory, rowBytes, slots, priority, signal };
    const read = await drive.read({ ...shelf.namespace, ...io, offsets4k, checksums });
    mergeResult(result, positions, read);
  } finally {
    for (const segment of segments) reading.end(segment);
  }
  const corrupt = new Set<number>();
  const used = new Int32Array(positions.length).fill(NO_ROW);
  for (const [i, position] of positions.entries()) {
    const row = rows[position] as number;
    if (!shelf.isAt(row, offsets4k[i] as number)) continue; // it has gone or was moved meanwhile
    if (result.outcomes[position] === Outcome.CORRUPT) corrupt.add(row);
    if (result.outcomes[position] !== Outcome.LOADED) continue;
    used[i] = row;
  }
  shelf.use(used);
  shelf.index.touch(used, clock.nowMs());
  if (corrupt.size > 0) damaged(shelf, [...corrupt]);
  return result;
}

/** Each segment once; blocks of a request lie in few. */
function segmentsOf(offsets4k: Uint32Array, segmentBytes: number): Set<number> {
  const segments = new Set<number>();
  let last = -1;
  for (const offset4k of offsets4k) {
    const segment = segmentOf(offset4k, segmentBytes);
    if (segment !== last) segments.add(segment);
    last = segment;
  }
  return segments;
}

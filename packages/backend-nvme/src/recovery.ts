import {
  createMemoryRegion,
  type KeyBatch,
  type Logger,
  type NamespaceRecord,
  Outcome,
  packedKeys,
} from "@kvferry/core";
import {
  driveOffset4k,
  type RecoveredDrive,
  type RecoveredNamespace,
  type SegmentDrive,
  segmentOf,
} from "@kvferry/native";
import {
  decodeTombstones,
  isSameNamespace,
  META_NAMESPACES,
  META_PAGE_BYTES,
  NAMESPACES,
  shelfName,
  TOMBSTONES,
  WEAR,
} from "./meta-records.js";
import { decodeNamespaces } from "./namespace-pages.js";
import { SegmentState, type SegmentTable } from "./segment-table.js";
import { type SequenceSource, timeOf } from "./sequence.js";
import { RowState, type Shelf } from "./shelf.js";
import type { WearCounter } from "./wear.js";

/** Pages of facts about the drive read at a time. */
const META_PAGES_MAX = 1024;

export interface RecoveryParts {
  readonly drive: SegmentDrive;
  readonly table: SegmentTable;
  readonly sequences: SequenceSource;
  readonly wear: WearCounter;
  readonly logger: Logger;
  /** The shelf of a namespace, made, with room for so many blocks, if there is none. */
  shelfFor(namespace: RecoveredNamespace, expectedBlocks: number): Shelf;
  /** Whose blocks may be on the drive; called again for a namespace that has several records, the newest last. */
  namespace(record: NamespaceRecord): void;
}

/** Keys that were removed, and when. */
interface Removal {
  readonly sequence: number;
  readonly keys: KeyBatch;
}

/** Rebuilds segments, shelves and the count of written bytes from what is on the drive. Returns the segments that can take more records. */
export async function recover(parts: RecoveryParts): Promise<number[]> {
  const { drive, sequences, logger } = parts;
  const found = await drive.recover();
  if (found.damagedSegments > 0 || found.damagedRecords > 0) {
    const { damagedSegments, damagedRecords } = found;
    logger.warn({ damagedSegments, damagedRecords }, "parts of the drive do not verify and were left out");
  }
  const unsealed = takeSegments(parts, found);
  for (const { sequences: each } of found.namespaces) sequences.seen(each[each.length - 1] ?? 0);
  const meta = (namespace: typeof WEAR) => found.namespaces.find((each) => isSameNamespace(each, namespace));
  await restoreWear(parts, found, meta(WEAR));
  await restoreNamespaces(parts, meta(NAMESPACES));
  const removals = await readRemovals(parts, meta(TOMBSTONES));
  for (const namespace of found.namespaces) {
    if (META_NAMESPACES.some((each) => isSameNamespace(namespace, each))) continue;
    takeBlocks(parts, namespace, removals.get(shelfName(namespace)) ?? []);
  }
  return unsealed;
}

function takeSegments({ table, sequences }: RecoveryParts, { segments }: RecoveredDrive): number[] {
  const unsealed: number[] = [];
  table.markUsed(segments.index);
  for (const [i, segment] of segments.index.entries()) {
    const [epoch, sequence] = [segments.epoch[i] as number, segments.sequence[i] as number];
    table.begin(segment, { epoch, sequence, usedBytes: segments.usedBytes[i] as number });
    table.records[segment] = segments.records[i] as number;
    table.blocks[segment] = segments.blocks[i] as number;
    table.keyBytes[segment] = segments.keyBytes[i] as number;
    if (segments.sealed[i] === 1) table.state[segment] = SegmentState.SEALED;
    else unsealed.push(segment);
    sequences.seen(Math.max(epoch, sequence));
  }
  return unsealed;
}

/** The newest state of the counter, and what was written after it as far as the drive shows it. */
async function restoreWear(
  { drive, table, wear, logger }: RecoveryParts,
  { segments }: RecoveredDrive,
  states: RecoveredNamespace | undefined,
): Promise<void> {
  const last = (states?.sequences.length ?? 0) - 1;
  let since = 0;
  let holder = -1;
  if (states !== undefined && last >= 0) {
    const [page] = await readPages(drive, states, last, 1);
    since = states.sequences[last] as number;
    holder = segmentOf(states.offsets4k[last] as number, drive.segmentBytes);
    if (page === undefined) logger.warn({}, "the count of bytes written in the last day could not be read");
    else wear.restore(page);
  }
  for (const [i, segment] of segments.index.entries()) {
    const begun = segments.sequence[i] as number;
    const used = table.usedBytes[segment] as number;
    if (begun > since) wear.addEarlier(used, timeOf(begun));
    if (segment !== holder) continue;
    const stateEnd4k = ((states as RecoveredNamespace).offsets4k[last] as number) + 1;
    const stateEnd = (stateEnd4k - driveOffset4k(segment, 0, drive.segmentBytes)) * META_PAGE_BYTES;
    wear.addEarlier(Math.max(0, used - stateEnd), timeOf(since));
  }
}

/** The newest segments have them all: each begins with those of all blocks. */
async function restoreNamespaces(
  { drive, namespace }: RecoveryParts,
  found: RecoveredNamespace | undefined,
): Promise<void> {
  const count = found?.sequences.length ?? 0;
  if (found === undefined || count === 0) return;
  const first = Math.max(0, count - META_PAGES_MAX);
  for (const record of decodeNamespaces(await readPages(drive, found, first, count - first))) namespace(record);
}

/** What was removed, by shelf name, in the order of time. Segments that say so must outlive what they speak of. */
async function readRemovals(
  { drive, table, logger }: RecoveryParts,
  found: RecoveredNamespace | undefined,
): Promise<Map<string, Removal[]>> {
  const removals = new Map<string, Removal[]>();
  if (found === undefined) return removals;
  for (let first = 0; first < found.sequences.length; first += META_PAGES_MAX) {
    const pages = await readPages(drive, found, first, Math.min(META_PAGES_MAX, found.sequences.length - first));
    for (const [i, page] of pages.entries()) {
      table.hasTombstones[segmentOf(found.offsets4k[first + i] as number, drive.segmentBytes)] = 1;
      const tombstones = page && decodeTombstones(page);
      if (tombstones === undefined) {
        logger.warn({}, "a page of removed keys is damaged: removed blocks may be back");
        continue;
      }
      const name = shelfName({ ...tombstones, keyBytes: tombstones.keys.stride });
      const list = removals.get(name) ?? [];
      list.push({ sequence: found.sequences[first + i] as number, keys: tombstones.keys });
      removals.set(name, list);
    }
  }
  return removals;
}

/** Pages of facts, undefined where one does not verify. */
async function readPages(
  drive: SegmentDrive,
  { namespaceDigest, keyBytes, blockBytes, keys, offsets4k, checksums }: RecoveredNamespace,
  first: number,
  count: number,
): Promise<(Uint8Array | undefined)[]> {
  const { bytes: memory } = createMemoryRegion(count, META_PAGE_BYTES);
  const read = await drive.read({
    ...{ namespaceDigest, keyBytes, blockBytes, memory, rowBytes: META_PAGE_BYTES },
    keys: keys.subarray(first * keyBytes, (first + count) * keyBytes),
    offsets4k: offsets4k.subarray(first, first + count),
    checksums: checksums.subarray(first, first + count),
    slots: Uint32Array.from({ length: count }, (_, i) => i),
  });
  return Array.from(read.outcomes, (outcome, i) => {
    if (outcome !== Outcome.LOADED) return undefined;
    return memory.subarray(i * META_PAGE_BYTES, (i + 1) * META_PAGE_BYTES);
  });
}

/** Goes through a namespace's blocks and removals in the order of time, so that what came last counts. */
function takeBlocks({ drive, table, shelfFor }: RecoveryParts, found: RecoveredNamespace, removals: Removal[]): void {
  const shelf = shelfFor(found, found.sequences.length);
  const { keys, keyBytes, offsets4k, sequences } = found;
  const { segmentBytes } = drive;
  const forget = (offset4k: number): void => table.dropEntry(segmentOf(offset4k, segmentBytes));
  let rows = new Int32Array(0);
  let removal = 0;
  const applyRemovals = (before: number): void => {
    for (; removal < removals.length; removal++) {
      const { sequence, keys: removed } = removals[removal] as Removal;
      if (sequence > before) return;
      for (const row of shelf.find(removed)) {
        if (shelf.state(row) !== RowState.STORED) continue;
        forget(shelf.offset4k(row));
        shelf.drop(row);
      }
    }
  };
  for (let first = 0; first < sequences.length; ) {
    const sequence = sequences[first] as number;
    let end = first + 1; // of the record: a chain, in prefix order
    while (end < sequences.length && sequences[end] === sequence) end++;
    applyRemovals(sequence);
    if (rows.length < end - first) rows = new Int32Array(end - first);
    const record = packedKeys(keys.subarray(first * keyBytes, end * keyBytes), keyBytes);
    shelf.recover(record, { ...found, first }, timeOf(sequence), rows, forget);
    for (let i = first; i < end; i++) {
      const offset4k = offsets4k[i] as number;
      table.addEntry(segmentOf(offset4k, segmentBytes), shelf.id, rows[i - first] as number, offset4k);
    }
    first = end;
  }
  applyRemovals(Number.POSITIVE_INFINITY);
}

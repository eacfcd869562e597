/** Where things lie on a segment drive: the arithmetic of src/device/segment_format.h. Bytes unless a name says 4k. */

/** Everything on a drive begins at a multiple of this. */
const PAGE_BYTES = 4096;
/** Bytes before the first segment of a drive. */
export const SEGMENT_DRIVE_HEADER_BYTES = 1_048_576;
/** Bytes at the start of each segment; the first record of a segment begins there. */
export const SEGMENT_HEADER_BYTES = 4096;
/** A record's header without its entries; a record in a summary takes the same. */
const RECORD_FIXED_BYTES = 128;
const CHECKSUM_BYTES = 4;
/** Blocks that one record holds at most. */
export const RECORD_BLOCKS_MAX = 65_536;

function roundUp(bytes: number): number {
  return Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES;
}

/** Of a record's header. */
function headerBytes(blocks: number, keyBytes: number): number {
  return roundUp(RECORD_FIXED_BYTES + blocks * (CHECKSUM_BYTES + keyBytes));
}

/** What a record of so many blocks takes. */
export function recordBytes(blocks: number, blockBytes: number, keyBytes: number): number {
  return headerBytes(blocks, keyBytes) + blocks * roundUp(blockBytes);
}

/** Of block `index`, from the start of its record. */
export function payloadOffset(index: number, blocks: number, blockBytes: number, keyBytes: number): number {
  return headerBytes(blocks, keyBytes) + index * roundUp(blockBytes);
}

/** What the summary of a segment takes at its end: `keyBytes` is the sum over all of its blocks. */
export function summaryBytes(records: number, blocks: number, keyBytes: number): number {
  return PAGE_BYTES + roundUp(records * RECORD_FIXED_BYTES + blocks * CHECKSUM_BYTES + keyBytes);
}

/** The place of a byte of a segment in units of 4096 from the start of the drive, as `SegmentRead.offsets4k` has it. */
export function driveOffset4k(segment: number, offset: number, segmentBytes: number): number {
  return (SEGMENT_DRIVE_HEADER_BYTES + segment * segmentBytes + offset) / PAGE_BYTES;
}

/** The segment that a place of the drive lies in. */
export function segmentOf(offset4k: number, segmentBytes: number): number {
  return Math.floor((offset4k * PAGE_BYTES - SEGMENT_DRIVE_HEADER_BYTES) / segmentBytes);
}

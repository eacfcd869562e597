import { KvferryError } from "./errors.js";

/** Memory that holds blocks: `rows` slots of `rowBytes` bytes, slot i at `bytes[i * rowBytes]`. It belongs to whoever made it; a
 * backend reads and writes only the slots named in a batch, only until that call ends. Regions shared between processes
 * come from `@kvferry/native`. */
export interface Region {
  readonly rows: number;
  /** Bytes from one slot to the next; at least the block's bytes. */
  readonly rowBytes: number;
  /** The whole memory: rows × rowBytes bytes. */
  readonly bytes: Uint8Array;
}

const PAGE_BYTES = 4096;

/** A region in this process's own memory, zeroed, its first slot at a multiple of 4096 within its buffer.
 * @throws KvferryError INVALID_ARGUMENT for sizes that are not positive integers. */
export function createMemoryRegion(rows: number, rowBytes: number): Region {
  if (!Number.isSafeInteger(rows) || rows < 1 || !Number.isSafeInteger(rowBytes) || rowBytes < 1) {
    throw new KvferryError(
      "INVALID_ARGUMENT",
      `a region needs positive whole rows and rowBytes, got ${rows} and ${rowBytes}`,
    );
  }
  const bytes = new Uint8Array(
    new ArrayBuffer(Math.ceil((rows * rowBytes) / PAGE_BYTES) * PAGE_BYTES),
    0,
    rows * rowBytes,
  );
  return Object.freeze({ rows, rowBytes, bytes });
}

/** A view of the first `blockBytes` bytes of a slot. */
export function slotBytes(region: Region, slot: number, blockBytes: number = region.rowBytes): Uint8Array {
  const start = slot * region.rowBytes;
  return region.bytes.subarray(start, start + blockBytes);
}

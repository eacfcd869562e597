import { KvferryError, StagingPool } from "@kvferry/core";
import { createRegion, type MappedRegion } from "@kvferry/native";

const PAGE_BYTES = 4096;

/** Rows in which parts become chunks. */
export interface GatherRows {
  readonly pool: StagingPool;
  readonly region: MappedRegion;
  /** Makes what follows the first `bytes` of a row zeros. */
  clearTail(row: number, bytes: number): void;
}

/**
 * Memory of a namespace in which chunks are put together from their parts, and into which blocks are loaded on their way to the arena. Half of it is for either: loads wait for no
 * worker that is late with its part.
 */
export class DirectStaging {
  readonly gathers: GatherRows;
  readonly loads: StagingPool;
  readonly rows: number;
  readonly #regions: MappedRegion[] = [];

  /** @throws KvferryError INVALID_ARGUMENT if not even two blocks have room. */
  constructor(blockBytes: number, stagingBytes: number) {
    const rowBytes = Math.ceil(blockBytes / PAGE_BYTES) * PAGE_BYTES;
    this.rows = Math.floor(stagingBytes / rowBytes);
    if (this.rows < 2) {
      throw new KvferryError(
        "INVALID_ARGUMENT",
        `a block has ${blockBytes} bytes, and direct mode needs staging for two: set 'direct.stagingBytes' in the server's configuration to ${2 * rowBytes} or more`,
        { operation: "hello", context: { field: "blockBytes" } },
      );
    }
    const create = (rows: number, bytes: number): MappedRegion => {
      const region = createRegion({ rows, rowBytes: bytes });
      this.#regions.push(region);
      return region;
    };
    const loadRows = Math.floor(this.rows / 2);
    const pool = new StagingPool(this.rows - loadRows, rowBytes, create);
    this.gathers = gatherRows(pool, this.#regions[0] as MappedRegion, blockBytes);
    this.loads = new StagingPool(loadRows, rowBytes, create);
  }

  /** Rows in use. */
  get usedRows(): number {
    return this.rows - this.gathers.pool.freeRows - this.loads.freeRows;
  }

  /** No row may be in use. */
  close(): void {
    for (const region of this.#regions) region.close();
  }
}

function gatherRows(pool: StagingPool, region: MappedRegion, blockBytes: number): GatherRows {
  /** Bytes from a row's beginning that may be other than zero. */
  const used = new Float64Array(region.rows);
  return {
    pool,
    region,
    clearTail(row, bytes) {
      const start = row * region.rowBytes;
      if ((used[row] as number) > bytes)
        region.bytes.fill(0, start + bytes, start + Math.min(used[row] as number, blockBytes));
      used[row] = bytes;
    },
  };
}

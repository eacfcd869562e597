import type { BlockTable } from "../prefix-index/block-table.js";

/** How a request uses a block. The caller fills one object and passes it for many blocks: a policy copies what it wants to keep. */
export interface BlockUse {
  /** Time of the use. May be coarse, never goes back by much. */
  nowMs: number;
  /** Index of the block in the request, from 0. */
  position: number;
  /** Blocks of the whole request. */
  requestBlocks: number;
  /** Blocks of the request that were found in one unbroken run from its start, before anything of it was stored. */
  foundBlocks: number;
}

/**
 * Ranks the blocks of one table and says which to let go. It removes nothing itself: the owner asks for a `victim`, removes it
 * from the table, and says so with `removed`. Everything is synchronous, and costs below a microsecond a block.
 *
 * The owner calls `inserted` once for each row that became occupied and `used` for each later use, a request's blocks from the last to
 * the first, so that a parent is never older than its children. Rows are small integers that come back after a removal.
 */
export interface EvictionPolicy {
  /** As in the configuration. */
  readonly name: string;
  /** Bytes of memory that the policy takes, on top of the table. */
  readonly memoryBytes: number;
  inserted(row: number, use: BlockUse): void;
  used(row: number, use: BlockUse): void;
  /** The row is gone, whoever took it. Called while the row's facts can still be read from the table; an unknown row is ignored. */
  removed(row: number): void;
  /** The block least worth keeping, without children in the table unless every block has some; NO_ROW if there is none.
   * It stays until `removed`, and may be another one at the next call. */
  victim(nowMs: number): number;
  /** How much a block is worth keeping now: higher is more. Comparable between blocks of one policy, and nowhere else. */
  worth(row: number, nowMs: number): number;
}

export interface PolicyOptions {
  /** Where the rows' facts are read. */
  readonly table: BlockTable;
  /** Blocks that the tier holds when it is full, about: sizes what the policy remembers of the past. */
  readonly capacityBlocks: number;
  /** Of everything that is drawn by chance; the same seed and calls give the same victims. Default 1. */
  readonly seed?: number;
}

/** Makes a policy for one table. */
export type PolicyFactory = (options: PolicyOptions) => EvictionPolicy;

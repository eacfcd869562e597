import { grownInt32, grownUint8, rowsFor } from "../eviction/rows.js";
import type { KeyBatch } from "../keys.js";
import { NO_ROW } from "../prefix-index/block-table.js";
import { PrefixIndex } from "../prefix-index/prefix-index.js";

/** The index has eight bits a block; the last one keeps the row of a block of which something is under way. */
export const TIERS_MAX = 7;
const ALL: number = (1 << TIERS_MAX) - 1;
const BUSY: number = 1 << TIERS_MAX;

/**
 * Which tiers have which blocks, and what is under way: one row a block, in typed arrays. A tier's bit says that the tier had the block when it was last
 * heard of; whether a missing bit says that it has not is for others to know.
 */
export class BlockMap {
  readonly #index: PrefixIndex;
  /** Calls and copies under way that hold the row. */
  #holds: Int32Array = new Int32Array(0);
  /** Of them, those after which some tier may have the block. */
  #storing: Int32Array = new Int32Array(0);
  /** The flight that is reading the block from a slow tier; 0 for none. */
  #flights: Int32Array = new Int32Array(0);
  /** Tiers that were said to have lost the block while the row was held. */
  #lost: Uint8Array = new Uint8Array(0);
  /** Tiers that have evicted the block since it was last used. */
  #evicted: Uint8Array = new Uint8Array(0);
  #blocks = 0;
  #copies = 0;

  constructor(keyBytes: number) {
    this.#index = new PrefixIndex({ keyBytes });
  }

  /** Blocks in any tier. */
  get blocks(): number {
    return this.#blocks;
  }

  /** Blocks of all tiers together: one in two tiers counts twice. */
  get copies(): number {
    return this.#copies;
  }

  get memoryBytes(): number {
    return this.#index.memoryBytes + this.#holds.byteLength * 3 + this.#lost.byteLength * 2;
  }

  /** Each key's row, or NO_ROW. */
  find(keys: KeyBatch): Int32Array {
    const rows = new Int32Array(keys.count);
    this.#index.findMany(keys, rows);
    return rows;
  }

  /** Bits of the tiers that have the row's block; 0 for NO_ROW. */
  tiers(row: number): number {
    return row === NO_ROW ? 0 : this.#index.tiers(row) & ALL;
  }

  isStoring(row: number): boolean {
    return row !== NO_ROW && row < this.#storing.length && this.#storing[row] !== 0;
  }

  isHeld(row: number): boolean {
    return row !== NO_ROW && row < this.#holds.length && this.#holds[row] !== 0;
  }

  /** Rows for the keys of something that begins, kept until `release`. */
  hold(keys: KeyBatch, storing: boolean): Int32Array {
    const rows = new Int32Array(keys.count);
    this.#index.insert(keys, { tier: BUSY, bytes: 0, nowMs: 0 }, rows);
    this.holdRows(rows, storing);
    return rows;
  }

  /** As `hold`, for rows that something holds already. */
  holdRows(rows: Int32Array, storing: boolean): void {
    if (this.#holds.length < this.#index.rowLimit) this.#grow();
    for (let i = 0; i < rows.length; i++) {
      const row = rows[i] as number;
      if (this.#holds[row] === 0) {
        this.#lost[row] = 0;
        if (this.tiers(row) === 0) this.#evicted[row] = 0; // of whichever block had the row before
      }
      (this.#holds[row] as number)++;
      if (storing) (this.#storing[row] as number)++;
    }
  }

  release(rows: Int32Array, storing: boolean): void {
    for (let i = 0; i < rows.length; i++) {
      const row = rows[i] as number;
      if (storing) (this.#storing[row] as number)--;
      if (--(this.#holds[row] as number) === 0) this.#index.dropTier(row, BUSY);
    }
  }

  /** The tier has the block of a row, held or not. */
  gain(row: number, bit: number): void {
    const before = this.#index.tiers(row) & ALL;
    if ((before & bit) !== 0) return;
    if (before === 0) this.#blocks++;
    this.#copies++;
    this.#index.addTier(row, bit);
  }

  /** The tier has these blocks, whether or not they have rows. */
  gainAll(keys: KeyBatch, bit: number): void {
    const rows = this.hold(keys, false);
    for (let i = 0; i < rows.length; i++) this.gain(rows[i] as number, bit);
    this.release(rows, false);
  }

  /** The tier has lost the block. Whether no tier has it any more and one had. */
  lose(row: number, bit: number): boolean {
    if (this.isHeld(row)) this.#lost[row] = (this.#lost[row] as number) | bit;
    const before = this.#index.tiers(row) & ALL;
    if ((before & bit) === 0) return false;
    this.#copies--;
    this.#index.dropTier(row, bit);
    if ((before & ~bit) !== 0) return false;
    this.#blocks--;
    return true;
  }

  /** As `lose`, for a tier that thought the block worth less than its room. */
  evict(row: number, bit: number): boolean {
    this.#evicted[row] = (this.#evicted[row] as number) | bit;
    return this.lose(row, bit);
  }

  /** Somebody loads the blocks: tiers that have evicted them may think better of them now. */
  use(rows: Int32Array): void {
    for (const row of rows) if (row !== NO_ROW && row < this.#evicted.length) this.#evicted[row] = 0;
  }

  /** Bits of the tiers that have evicted the block since it was last used. */
  evicted(row: number): number {
    return row === NO_ROW ? 0 : (this.#evicted[row] as number);
  }

  /** Bits of the tiers that lost the block while this row was held: what they said of it before may be wrong. */
  lost(row: number): number {
    return this.#lost[row] as number;
  }

  flight(row: number): number {
    return this.#flights[row] as number;
  }

  /** For a held row. */
  setFlight(row: number, flight: number): void {
    this.#flights[row] = flight;
  }

  /** The keys of held rows. */
  keysOf(rows: ArrayLike<number>): KeyBatch {
    return this.#index.keysOf(rows);
  }

  #grow(): void {
    const rows = rowsFor(this.#index.rowLimit);
    this.#holds = grownInt32(this.#holds, rows, 0);
    this.#storing = grownInt32(this.#storing, rows, 0);
    this.#flights = grownInt32(this.#flights, rows, 0);
    this.#lost = grownUint8(this.#lost, rows);
    this.#evicted = grownUint8(this.#evicted, rows);
  }
}

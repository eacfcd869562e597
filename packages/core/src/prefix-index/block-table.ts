/** In place of a row: there is none. */
export const NO_ROW = -1;

/** What is known of the blocks of an index, by row: what an eviction policy reads. A row is a small whole number from 0 on; it is the same
 * block's until that is removed, and another block's after. */
export interface BlockTable {
  /** Every row is below this; it grows and never shrinks. */
  readonly rowLimit: number;
  /** The block before it in its chain, if that is in the index; NO_ROW for the first block of a chain, an orphan, or where nobody has told. */
  parent(row: number): number;
  /** How many blocks of the index have it as their parent. */
  children(row: number): number;
  /** When it was inserted or last touched, ms since 1970 as the caller gave them, rounded down to an eighth of a second; never goes back. */
  lastUseMs(row: number): number;
  /** How many times it was touched since it was inserted; 255 stands for that and more. */
  uses(row: number): number;
  /** 32-bit hash of its key, unsigned, the same in all indexes of the process: what remembers a block that has gone. */
  hash(row: number): number;
}

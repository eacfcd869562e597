import { KvferryError } from "../errors.js";
import { NO_ROW } from "./block-table.js";
import { hashWords, wordsOfKey } from "./key-words.js";

/** Rows of a chunk, as a power of two: memory grows by so many at a time and is never copied. */
const CHUNK_BITS = 14;
export const CHUNK_ROWS: number = 1 << CHUNK_BITS;
const ROW_IN_CHUNK = CHUNK_ROWS - 1;
/** Rows that the key table can name. */
export const ROWS_MAX: number = 2 ** 27 - 1;

/** Words of a record after its key. */
const PARENT = 0;
const BYTES = 1;
const LAST_USE = 2;
const FACTS = 3;
const FIELD_WORDS = 4;

/** The word FACTS: tiers in bits 0 to 7, uses in 8 to 15, children in 16 to 31. */
const TIERS_MASK = 0xff;
const USES_MASK = 0xff00;
const USES_ONE = 0x100;
const CHILDREN_SHIFT = 16;
/** So many and more are counted in a map: at most one entry for each 65,535 blocks. */
const CHILDREN_IN_RECORD_MAX = 0xffff;
/** What an entry of a Map takes, about. */
const MAP_ENTRY_BYTES = 48;

/** Told of every change of a record after it was made, so that it can be written to a log. */
export interface RecordJournal {
  /** The row has a new key, and all else with it. */
  put(row: number): void;
  /** Parent, last use, bytes, tiers or uses have changed. */
  facts(row: number): void;
  /** Last use and uses have changed. */
  touched(row: number): void;
}

/**
 * The records of an index: a key and four words each, in chunks of typed arrays, no object for a block. Free rows are a list through their own
 * records. A record without tiers is free, or kept only because children name it.
 */
export class BlockRecords {
  readonly keyBytes: number;
  readonly keyWords: number;
  readonly recordWords: number;
  readonly chunks: Int32Array[] = [];
  journal: RecordJournal | undefined;
  #rowLimit = 0;
  #free: number = NO_ROW;
  readonly #manyChildren: Map<number, number> = new Map();

  constructor(keyBytes: number) {
    this.keyBytes = keyBytes;
    this.keyWords = wordsOfKey(keyBytes);
    this.recordWords = this.keyWords + FIELD_WORDS;
  }

  get rowLimit(): number {
    return this.#rowLimit;
  }

  get memoryBytes(): number {
    return this.chunks.length * CHUNK_ROWS * this.recordWords * 4 + this.#manyChildren.size * MAP_ENTRY_BYTES;
  }

  chunk(row: number): Int32Array {
    return this.chunks[row >>> CHUNK_BITS] as Int32Array;
  }

  /** Where the record begins in its chunk; its key is first. */
  at(row: number): number {
    return (row & ROW_IN_CHUNK) * this.recordWords;
  }

  /** A free row with this key and no facts. */
  add(words: Int32Array, from: number): number {
    let row = this.#free;
    if (row === NO_ROW) {
      if (this.#rowLimit === ROWS_MAX) {
        throw new KvferryError("NO_SPACE", `an index takes at most ${ROWS_MAX} blocks`, { operation: "prefixIndex" });
      }
      row = this.#rowLimit;
      this.reach(row + 1);
    }
    const chunk = this.chunk(row);
    const at = this.at(row);
    if (row === this.#free) this.#free = chunk[at + this.keyWords + PARENT] as number;
    for (let i = 0; i < this.keyWords; i++) chunk[at + i] = words[from + i] as number;
    chunk[at + this.keyWords + PARENT] = NO_ROW;
    chunk[at + this.keyWords + FACTS] = 0;
    return row;
  }

  /** Makes room for rows below `limit`; the new ones are on no list. */
  reach(limit: number): void {
    while (this.chunks.length * CHUNK_ROWS < limit) this.chunks.push(new Int32Array(CHUNK_ROWS * this.recordWords));
    this.#rowLimit = Math.max(this.#rowLimit, limit);
  }

  /** The row has neither tiers nor children any more. */
  release(row: number): void {
    this.#set(row, PARENT, this.#free);
    this.#set(row, FACTS, 0);
    this.#free = row;
  }

  hash(row: number): number {
    return hashWords(this.chunk(row), this.at(row), this.keyWords);
  }

  /** As it was linked, whether or not the parent is still there. */
  parentLink(row: number): number {
    return this.#get(row, PARENT);
  }

  setParentLink(row: number, parent: number): void {
    this.#set(row, PARENT, parent);
  }

  lastUse(row: number): number {
    return this.#get(row, LAST_USE);
  }

  setLastUse(row: number, tick: number): void {
    this.#set(row, LAST_USE, tick);
  }

  bytes(row: number): number {
    return this.#get(row, BYTES) >>> 0;
  }

  setBytes(row: number, bytes: number): void {
    this.#set(row, BYTES, bytes);
  }

  tiers(row: number): number {
    return this.#get(row, FACTS) & TIERS_MASK;
  }

  setTiers(row: number, tiers: number): void {
    this.#set(row, FACTS, (this.#get(row, FACTS) & ~TIERS_MASK) | tiers);
  }

  uses(row: number): number {
    return (this.#get(row, FACTS) & USES_MASK) >>> 8;
  }

  clearUses(row: number): void {
    this.#set(row, FACTS, this.#get(row, FACTS) & ~USES_MASK);
  }

  /** One use more, at `tick` or when it was last used, whichever is later. Nothing for a row without tiers. */
  touch(row: number, tick: number): boolean {
    const chunk = this.chunk(row);
    const fields = this.at(row) + this.keyWords;
    const facts = chunk[fields + FACTS] as number;
    if ((facts & TIERS_MASK) === 0) return false;
    if ((facts & USES_MASK) !== USES_MASK) chunk[fields + FACTS] = facts + USES_ONE;
    if ((chunk[fields + LAST_USE] as number) < tick) chunk[fields + LAST_USE] = tick;
    return true;
  }

  children(row: number): number {
    const children = this.#get(row, FACTS) >>> CHILDREN_SHIFT;
    return children < CHILDREN_IN_RECORD_MAX ? children : (this.#manyChildren.get(row) as number);
  }

  addChild(row: number): void {
    this.#setChildren(row, this.children(row) + 1);
  }

  /** How many are left. */
  removeChild(row: number): number {
    const left = this.children(row) - 1;
    this.#setChildren(row, left);
    return left;
  }

  /** For records whose counts are made anew. */
  clearChildren(row: number): void {
    this.#setChildren(row, 0);
  }

  #setChildren(row: number, children: number): void {
    if (children >= CHILDREN_IN_RECORD_MAX) this.#manyChildren.set(row, children);
    else if (children === CHILDREN_IN_RECORD_MAX - 1) this.#manyChildren.delete(row);
    const inRecord = Math.min(children, CHILDREN_IN_RECORD_MAX);
    this.#set(row, FACTS, (this.#get(row, FACTS) & (TIERS_MASK | USES_MASK)) | (inRecord << CHILDREN_SHIFT));
  }

  #get(row: number, field: number): number {
    return this.chunk(row)[this.at(row) + this.keyWords + field] as number;
  }

  #set(row: number, field: number, value: number): void {
    this.chunk(row)[this.at(row) + this.keyWords + field] = value;
  }
}

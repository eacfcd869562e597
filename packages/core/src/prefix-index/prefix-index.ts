import { KvferryError } from "../errors.js";
import { KEY_BYTES_MAX, KEY_BYTES_MIN, type KeyBatch } from "../keys.js";
import { BlockRecords } from "./block-records.js";
import { type BlockTable, NO_ROW } from "./block-table.js";
import { KeyTable, WAVE_KEYS } from "./key-table.js";
import { batchWords, groupWord, hashWords, keyWords, putKeyBytes } from "./key-words.js";
import { LastOfGroup } from "./last-of-group.js";
import { TickClock } from "./tick-clock.js";

export interface PrefixIndexOptions {
  /** Bytes of a key. */
  readonly keyBytes: number;
  /** Makes the key table for so many at once, instead of growing it; default 0. */
  readonly expectedBlocks?: number | undefined;
}

/** An index as files hold it. */
export interface RestoredParts {
  readonly records: BlockRecords;
  readonly table: KeyTable;
  readonly clock: TickClock;
  readonly size: number;
}

/** What is said of all blocks of an `insert`. */
export interface BlockFacts {
  /** Bits of the tiers that hold them: 1 to 255. */
  readonly tier: number;
  /** Bytes of each, below 2^32. */
  readonly bytes: number;
  /** Now, ms since 1970. */
  readonly nowMs: number;
  /** The block before the first one in its chain; default NO_ROW. */
  readonly parent?: number | undefined;
}

const ALL_TIERS = 0xff;
const FIRST_WAVE_KEYS = 16;
const BYTES_MAX = 2 ** 32 - 1;
/** A link that could close a ring is looked into by walking up the chain; a call may walk so many steps, and so many for each of its keys. */
const WALK_STEPS_MIN = 4096;
const WALK_STEPS_PER_KEY = 4;

/**
 * Which blocks there are, in which tiers, and how they follow one another: key → tiers, bytes, parent, children, last use, use count. 52 bytes a block with
 * 36-byte keys, and 5 to 11 for the key table, in typed arrays that grow by pieces.
 *
 * Each block has a row, as BlockTable says. Parents come from the order of keys in `insert` and `observe`: of the keys of one group (their last four bytes) each
 * follows the one before it. Whatever clients send, the parents form a forest: a link that would close a ring is left out, as
 * is one whose proof would take too long; the first parent that is told stays as long as it is in the index.
 *
 * A block that is removed before its children leaves them as orphans. Its row stays taken until they have gone too or found another parent, and if its
 * key comes back, they are its children again.
 */
export class PrefixIndex implements BlockTable {
  readonly keyBytes: number;
  readonly #records: BlockRecords;
  readonly #table: KeyTable;
  readonly #clock: TickClock;
  readonly #lastOfGroup: LastOfGroup = new LastOfGroup();
  readonly #wave: { readonly hashes: Int32Array; readonly rows: Int32Array } = {
    hashes: new Int32Array(WAVE_KEYS),
    rows: new Int32Array(WAVE_KEYS),
  };
  #size: number;
  #walkSteps = 0;

  /** @throws KvferryError INVALID_ARGUMENT if the length is none of a key.
   * @param restored for PersistentIndex alone. */
  constructor({ keyBytes, expectedBlocks = 0 }: PrefixIndexOptions, restored?: RestoredParts) {
    if (!Number.isInteger(keyBytes) || keyBytes < KEY_BYTES_MIN || keyBytes > KEY_BYTES_MAX) {
      throw misuse(`keyBytes must be ${KEY_BYTES_MIN} to ${KEY_BYTES_MAX}, got ${keyBytes}`);
    }
    this.keyBytes = keyBytes;
    this.#records = restored?.records ?? new BlockRecords(keyBytes);
    this.#table = restored?.table ?? new KeyTable(this.#records, expectedBlocks);
    this.#clock = restored?.clock ?? new TickClock();
    this.#size = restored?.size ?? 0;
  }

  /** Blocks in any tier. */
  get size(): number {
    return this.#size;
  }

  get rowLimit(): number {
    return this.#records.rowLimit;
  }

  /** Bytes of memory that the index takes. */
  get memoryBytes(): number {
    return this.#records.memoryBytes + this.#table.memoryBytes;
  }

  /** The block's row, or NO_ROW.
   * @throws KvferryError INVALID_ARGUMENT for a key of another length, as every method that takes keys. */
  find(key: Uint8Array): number {
    this.#checkKey(key.length);
    return this.#find(keyWords(key), 0);
  }

  /** Writes each key's row, or NO_ROW, to `rows`; how many are there. */
  findMany(keys: KeyBatch, rows: Int32Array): number {
    this.#checkBatch(keys, rows);
    const words = batchWords(keys);
    let found = 0;
    for (let first = 0; first < keys.count; first += WAVE_KEYS) {
      const count = Math.min(WAVE_KEYS, keys.count - first);
      this.#findWave(words, first, count);
      for (let i = 0; i < count; i++) {
        const row = this.#wave.rows[i] as number;
        rows[first + i] = row;
        if (row !== NO_ROW) found++;
      }
    }
    return found;
  }

  /** How many keys from the first on are in any of `tiers`: up to the first that is not, whatever its group. */
  longestPrefix(keys: KeyBatch, tiers: number = ALL_TIERS): number {
    this.#checkBatch(keys);
    const words = batchWords(keys);
    // the first wave is short: most of what is not there is not there from the start
    for (let first = 0, count = 0; first < keys.count; first += count) {
      count = Math.min(first === 0 ? FIRST_WAVE_KEYS : WAVE_KEYS, keys.count - first);
      this.#findWave(words, first, count);
      for (let i = 0; i < count; i++) {
        const row = this.#wave.rows[i] as number;
        if (row === NO_ROW || (this.#records.tiers(row) & tiers) === 0) return first + i;
      }
    }
    return keys.count;
  }

  /**
   * Adds or finds the keys of a request, or of a part of it, in prefix order: sets tier bits, bytes and last use, and links each key to the one
   * before it of its group. `rows[i]` becomes the row of key i. A part that continues an earlier one names that one's last row as `parent`.
   * @returns how many are new.
   */
  insert(keys: KeyBatch, facts: BlockFacts, rows: Int32Array): number {
    this.#checkBatch(keys, rows);
    const { tier, bytes, parent = NO_ROW } = facts;
    checkTier(tier);
    if (!Number.isInteger(bytes) || bytes < 0 || bytes > BYTES_MAX) {
      throw misuse(`bytes must be 0 to ${BYTES_MAX}, got ${bytes}`);
    }
    const tick = this.#clock.tick(facts.nowMs);
    const words = batchWords(keys);
    const before = this.#size;
    this.#beginLinks(keys.count, parent);
    for (let first = 0; first < keys.count; first += WAVE_KEYS) {
      const count = Math.min(WAVE_KEYS, keys.count - first);
      this.#findWave(words, first, count);
      for (let i = 0; i < count; i++) {
        const from = (first + i) * this.#records.keyWords;
        const row = this.#put(words, from, i, tier, bytes, tick);
        rows[first + i] = row;
        this.#link(row, this.#lastOfGroup.swap(groupWord(words, from, this.keyBytes), row));
      }
    }
    return this.#size - before;
  }

  /** Links the blocks of a request, whose order a lookup tells, where they have no parent yet. `rows` as `findMany` has left it. */
  observe(keys: KeyBatch, rows: Int32Array): void {
    this.#checkBatch(keys, rows);
    const words = batchWords(keys);
    const stride = this.#records.keyWords;
    this.#beginLinks(keys.count, NO_ROW);
    for (let i = 0; i < keys.count; i++) {
      const row = rows[i] as number;
      const previous = this.#lastOfGroup.swap(groupWord(words, i * stride, this.keyBytes), row);
      if (row === NO_ROW) continue;
      this.#checkRow(row);
      if (this.#isHere(row)) this.#link(row, previous);
    }
  }

  /** Counts a use of each row and notes when. NO_ROW and rows that have gone are skipped. */
  touch(rows: Int32Array, nowMs: number): void {
    const tick = this.#clock.tick(nowMs);
    const records = this.#records;
    const limit = records.rowLimit;
    for (let i = 0; i < rows.length; i++) {
      const row = rows[i] as number;
      if (row >= 0 && row < limit && records.touch(row, tick)) records.journal?.touched(row);
    }
  }

  /** Bits of the tiers that hold the block; 0 if it has gone. */
  tiers(row: number): number {
    this.#checkRow(row);
    return this.#records.tiers(row);
  }

  /** @throws KvferryError INVALID_ARGUMENT if the block has gone. */
  addTier(row: number, tier: number): void {
    this.#checkHere(row);
    checkTier(tier);
    this.#records.setTiers(row, this.#records.tiers(row) | tier);
    this.#records.journal?.facts(row);
  }

  /** Clears bits of tiers; a block in no tier is removed. Whether it is gone.
   * @throws KvferryError INVALID_ARGUMENT if it had gone before. */
  dropTier(row: number, tier: number): boolean {
    this.#checkHere(row);
    checkTier(tier);
    const left = this.#records.tiers(row) & ~tier;
    if (left === 0) {
      this.#remove(row);
      return true;
    }
    this.#records.setTiers(row, left);
    this.#records.journal?.facts(row);
    return false;
  }

  /** Removes a block from all tiers.
   * @throws KvferryError INVALID_ARGUMENT if it has gone. */
  delete(row: number): void {
    this.#checkHere(row);
    this.#remove(row);
  }

  parent(row: number): number {
    this.#checkRow(row);
    return this.#hereOrNone(this.#records.parentLink(row));
  }

  /** Whether its parent has gone. */
  isOrphan(row: number): boolean {
    this.#checkRow(row);
    return this.#isHere(row) && this.#hasLostParent(row);
  }

  children(row: number): number {
    this.#checkRow(row);
    return this.#records.children(row);
  }

  lastUseMs(row: number): number {
    this.#checkRow(row);
    return this.#clock.ms(this.#records.lastUse(row));
  }

  uses(row: number): number {
    this.#checkRow(row);
    return this.#records.uses(row);
  }

  hash(row: number): number {
    this.#checkRow(row);
    return this.#records.hash(row) >>> 0;
  }

  /** Bytes of the block, as last inserted. */
  bytes(row: number): number {
    this.#checkRow(row);
    return this.#records.bytes(row);
  }

  /** Writes the key to `out` at `offset`. */
  copyKey(row: number, out: Uint8Array, offset: number): void {
    this.#checkRow(row);
    if (offset < 0 || offset + this.keyBytes > out.length) throw misuse(`no room for a key at ${offset}`);
    putKeyBytes(this.#records.chunk(row), this.#records.at(row), this.keyBytes, out, offset);
  }

  /** A copy of the key. */
  key(row: number): Uint8Array {
    const key = new Uint8Array(this.keyBytes);
    this.copyKey(row, key, 0);
    return key;
  }

  /** The keys of some rows, packed. */
  keysOf(rows: ArrayLike<number>): KeyBatch {
    const bytes = new Uint8Array(rows.length * this.keyBytes);
    for (let i = 0; i < rows.length; i++) this.copyKey(rows[i] as number, bytes, i * this.keyBytes);
    return { bytes, stride: this.keyBytes, count: rows.length };
  }

  /** All blocks, in no order that means anything. The index may change meanwhile: what comes or goes then may or may not be among them. */
  *rows(): IterableIterator<number> {
    for (let row = 0; row < this.#records.rowLimit; row++) if (this.#isHere(row)) yield row;
  }

  /** Blocks whose parent has gone, as `rows`. Their children are no orphans, but cannot be reached either. */
  *orphans(): IterableIterator<number> {
    for (const row of this.rows()) if (this.#hasLostParent(row)) yield row;
  }

  #find(words: Int32Array, from: number): number {
    return this.#hereOrNone(this.#table.find(words, from, hashWords(words, from, this.#records.keyWords)));
  }

  /** Fills the wave with the hashes and rows of `count` keys from `first` on. */
  #findWave(words: Int32Array, first: number, count: number): void {
    const { hashes, rows } = this.#wave;
    this.#table.findWave(words, first, count, hashes, rows);
    for (let i = 0; i < count; i++) rows[i] = this.#hereOrNone(rows[i] as number);
  }

  /** The row of key `i` of the wave, which is in these tiers from now on. */
  #put(words: Int32Array, from: number, i: number, tier: number, bytes: number, tick: number): number {
    const records = this.#records;
    const hash = this.#wave.hashes[i] as number;
    let row = this.#wave.rows[i] as number;
    // it may have come since the wave was looked up, or be one that is only kept for its children; those may go meanwhile
    if (row === NO_ROW) row = this.#table.find(words, from, hash);
    const isNew = row === NO_ROW;
    if (isNew) {
      row = records.add(words, from);
      this.#table.add(hash, row);
    }
    const tiers = records.tiers(row);
    if (tiers === 0) this.#size++;
    if (tiers === 0 || records.lastUse(row) < tick) records.setLastUse(row, tick);
    records.setTiers(row, tiers | tier);
    records.setBytes(row, bytes);
    if (isNew) records.journal?.put(row);
    else records.journal?.facts(row);
    return row;
  }

  #remove(row: number): void {
    const records = this.#records;
    this.#unlink(row);
    records.setTiers(row, 0);
    records.clearUses(row);
    this.#size--;
    if (records.children(row) === 0) this.#release(row);
    records.journal?.facts(row);
  }

  #release(row: number): void {
    this.#table.remove(this.#records.hash(row), row);
    this.#records.release(row);
  }

  #unlink(row: number): void {
    const records = this.#records;
    const parent = records.parentLink(row);
    if (parent === NO_ROW) return;
    records.setParentLink(row, NO_ROW);
    if (records.removeChild(parent) === 0 && !this.#isHere(parent)) this.#release(parent);
  }

  #beginLinks(keys: number, parent: number): void {
    this.#walkSteps = WALK_STEPS_MIN + WALK_STEPS_PER_KEY * keys;
    this.#lastOfGroup.clear();
    if (parent === NO_ROW) return;
    this.#checkRow(parent);
    if (!this.#isHere(parent)) return;
    const group = groupWord(this.#records.chunk(parent), this.#records.at(parent), this.keyBytes);
    this.#lastOfGroup.swap(group, parent);
  }

  /** Makes `parent` the parent of `row`, unless that has one or is one of its ancestors. */
  #link(row: number, parent: number): void {
    const records = this.#records;
    if (parent === NO_ROW || parent === row) return;
    if (records.parentLink(row) !== NO_ROW && !this.#hasLostParent(row)) return;
    if (!this.#isHere(parent) || !this.#mayFollow(row, parent)) return;
    this.#unlink(row);
    records.setParentLink(row, parent);
    records.addChild(parent);
    records.journal?.facts(row);
  }

  /** Whether `row` is surely no ancestor of `parent`. */
  #mayFollow(row: number, parent: number): boolean {
    const records = this.#records;
    if (records.children(row) === 0) return true;
    for (let above = records.parentLink(parent); above !== NO_ROW; above = records.parentLink(above)) {
      if (above === row || this.#walkSteps-- <= 0) return false;
    }
    return true;
  }

  #isHere(row: number): boolean {
    return this.#records.tiers(row) !== 0;
  }

  #hereOrNone(row: number): number {
    return row !== NO_ROW && this.#isHere(row) ? row : NO_ROW;
  }

  #hasLostParent(row: number): boolean {
    const parent = this.#records.parentLink(row);
    return parent !== NO_ROW && !this.#isHere(parent);
  }

  #checkBatch({ bytes, stride, count }: KeyBatch, rows?: Int32Array): void {
    this.#checkKey(stride);
    if (bytes.length < count * stride) throw misuse(`${bytes.length} bytes are no ${count} keys of ${stride}`);
    if (rows !== undefined && rows.length < count) throw misuse(`rows has ${rows.length} places for ${count} keys`);
  }

  #checkKey(bytes: number): void {
    if (bytes !== this.keyBytes) throw misuse(`a key of ${bytes} bytes in an index of keys of ${this.keyBytes}`);
  }

  #checkRow(row: number): void {
    if (!(row >= 0 && row < this.#records.rowLimit)) throw misuse(`there is no row ${row}`);
  }

  #checkHere(row: number): void {
    this.#checkRow(row);
    if (!this.#isHere(row)) throw misuse(`the block of row ${row} has gone`);
  }
}

function checkTier(tier: number): void {
  if (!Number.isInteger(tier) || tier < 1 || tier > ALL_TIERS) {
    throw misuse(`tier bits must be 1 to ${ALL_TIERS}, got ${tier}`);
  }
}

function misuse(reason: string): KvferryError {
  return new KvferryError("INVALID_ARGUMENT", `PrefixIndex: ${reason}`, { operation: "prefixIndex" });
}

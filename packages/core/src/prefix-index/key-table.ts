import { KvferryError } from "../errors.js";
import type { BlockRecords } from "./block-records.js";
import { NO_ROW } from "./block-table.js";
import { hashWords } from "./key-words.js";

/** Places of a segment, as a power of two; after them what it counts. */
const PLACE_BITS = 12;
const PLACES = 1 << PLACE_BITS;
const PLACE_MASK = PLACES - 1;
const COUNT = PLACES;
const COUNT_LIMIT = PLACES + 1;
const DEPTH = PLACES + 2;
const SEGMENT_WORDS = PLACES + 3;
/** A segment with so many is split in two; each has a limit of its own, so that they do not all come to it at once. */
const COUNT_LIMIT_MAX = (PLACES * 3) / 4;
const COUNT_LIMIT_SPREAD = 1 << 9;
/** In each segment on average, when a table is made for a known number of keys. */
const COUNT_EXPECTED = COUNT_LIMIT_MAX - COUNT_LIMIT_SPREAD / 2;

/** A place holds the row plus one in its low 27 bits, 0 where it is empty, and five bits of the hash above. */
const ROW_MASK = 0x7ffffff;
const TAG_MASK = ~ROW_MASK;
/** Moves the hash's bits next to those that choose the place up to the tag's. */
const TAG_SHIFT = 32 - 5 - PLACE_BITS;

const DEPTH_MIN = 1; // a shift by 32 - 0 would shift nothing
const DEPTH_MAX = 24;

/** Keys that `findWave` takes. */
export const WAVE_KEYS = 128;

/**
 * From a key to its row: extendible hashing, so that it grows by one segment of 16 KiB at a time and never stops the process to move millions of keys.
 * The hash's high bits choose the segment through a directory, its low bits the place; linear probing; a delete moves what follows back, so that there
 * are no tombstones. Keys lie in the records alone: a place takes four bytes.
 */
export class KeyTable {
  readonly #records: BlockRecords;
  #directory: Int32Array[] = [];
  #depth: number = DEPTH_MIN;
  #segments = 0;
  /** What was read ahead; kept, so that the reads are not left out as of no use. */
  #ahead = 0;

  constructor(records: BlockRecords, expectedKeys: number) {
    this.#records = records;
    while (this.#depth < DEPTH_MAX && 2 ** this.#depth * COUNT_EXPECTED < expectedKeys) this.#depth++;
    for (let i = 0; i < 2 ** this.#depth; i++) this.#directory.push(this.#newSegment(this.#depth));
  }

  get memoryBytes(): number {
    return this.#segments * SEGMENT_WORDS * 4 + this.#directory.length * 8;
  }

  /** The row of the key that lies in `words` at `from` and has this hash, or NO_ROW. */
  find(words: Int32Array, from: number, hash: number): number {
    const segment = this.#segment(hash);
    const tag = hash << TAG_SHIFT;
    let place = hash & PLACE_MASK;
    for (let held = segment[place] as number; held !== 0; held = segment[place] as number) {
      if (((held ^ tag) & TAG_MASK) === 0) {
        const row = (held & ROW_MASK) - 1;
        if (this.#isKey(row, words, from)) return row;
      }
      place = (place + 1) & PLACE_MASK;
    }
    return NO_ROW;
  }

  /**
   * Finds `count` keys (at most WAVE_KEYS) that lie in `words` one after the other from key `first` on: writes their hashes, and their rows or NO_ROW, to the
   * arrays given, from 0 on. Takes each step for all of them, because memory answers many reads at a time, but one after the other where each
   * waits for the one before.
   */
  findWave(words: Int32Array, first: number, count: number, hashes: Int32Array, rows: Int32Array): void {
    const { keyWords } = this.#records;
    for (let i = 0; i < count; i++) hashes[i] = hashWords(words, (first + i) * keyWords, keyWords);
    for (let i = 0; i < count; i++) rows[i] = this.#candidate(hashes[i] as number);
    this.#readAhead(rows, count);
    for (let i = 0; i < count; i++) {
      const row = rows[i] as number;
      const from = (first + i) * keyWords;
      if (row !== NO_ROW && !this.#isKey(row, words, from)) rows[i] = this.find(words, from, hashes[i] as number);
    }
  }

  /** The first row that may be that of a key with this hash. */
  #candidate(hash: number): number {
    const segment = this.#segment(hash);
    const tag = hash << TAG_SHIFT;
    let place = hash & PLACE_MASK;
    for (let held = segment[place] as number; held !== 0; held = segment[place] as number) {
      if (((held ^ tag) & TAG_MASK) === 0) return (held & ROW_MASK) - 1;
      place = (place + 1) & PLACE_MASK;
    }
    return NO_ROW;
  }

  #isKey(row: number, words: Int32Array, from: number): boolean {
    const records = this.#records;
    const count = records.keyWords;
    const chunk = records.chunk(row);
    const at = records.at(row);
    let i = 0;
    while (i < count && chunk[at + i] === words[from + i]) i++;
    return i === count;
  }

  /** Brings records into the processor's caches. */
  #readAhead(rows: Int32Array, count: number): void {
    const records = this.#records;
    const last = records.recordWords - 1;
    for (let i = 0; i < count; i++) {
      const row = rows[i] as number;
      if (row === NO_ROW) continue;
      const chunk = records.chunk(row);
      const at = records.at(row);
      this.#ahead ^= (chunk[at] as number) ^ (chunk[at + last] as number);
    }
  }

  /** Adds a row whose key is not there. */
  add(hash: number, row: number): void {
    let segment = this.#segment(hash);
    while ((segment[COUNT] as number) >= (segment[COUNT_LIMIT] as number)) {
      this.#split(segment, hash);
      segment = this.#segment(hash);
    }
    put(segment, hash, row);
  }

  /** Takes a row out that is there. */
  remove(hash: number, row: number): void {
    const segment = this.#segment(hash);
    let hole = hash & PLACE_MASK;
    while (((segment[hole] as number) & ROW_MASK) - 1 !== row) hole = (hole + 1) & PLACE_MASK;
    for (let next = (hole + 1) & PLACE_MASK; segment[next] !== 0; next = (next + 1) & PLACE_MASK) {
      // a key may move back only as far as its own first place
      const home = this.#records.hash(((segment[next] as number) & ROW_MASK) - 1) & PLACE_MASK;
      if (((next - home) & PLACE_MASK) < ((next - hole) & PLACE_MASK)) continue;
      segment[hole] = segment[next] as number;
      hole = next;
    }
    segment[hole] = 0;
    segment[COUNT] = (segment[COUNT] as number) - 1;
  }

  #segment(hash: number): Int32Array {
    return this.#directory[hash >>> (32 - this.#depth)] as Int32Array;
  }

  #newSegment(depth: number): Int32Array {
    const segment = new Int32Array(SEGMENT_WORDS);
    segment[DEPTH] = depth;
    segment[COUNT_LIMIT] = COUNT_LIMIT_MAX - (Math.imul(this.#segments++, 0x9e3779b1) & (COUNT_LIMIT_SPREAD - 1));
    return segment;
  }

  /** Puts two segments in place of the one that this hash leads to. */
  #split(segment: Int32Array, hash: number): void {
    const depth = (segment[DEPTH] as number) + 1;
    if (depth > DEPTH_MAX) {
      throw new KvferryError("INTERNAL", "too many keys have one hash", { operation: "prefixIndex" });
    }
    if (depth > this.#depth) {
      this.#directory = this.#directory.flatMap((each) => [each, each]);
      this.#depth = depth;
    }
    const halves = [this.#newSegment(depth), this.#newSegment(depth)] as const;
    this.#segments--;
    const rows = new Int32Array(PLACES);
    for (let place = 0; place < PLACES; place++) rows[place] = ((segment[place] as number) & ROW_MASK) - 1;
    this.#readAhead(rows, PLACES);
    for (const row of rows) {
      if (row === NO_ROW) continue;
      const of = this.#records.hash(row);
      put(halves[(of >>> (32 - depth)) & 1] as Int32Array, of, row);
    }
    const entries = 2 ** (this.#depth - depth); // of the directory, for each half
    const first = (hash >>> (32 - depth + 1)) * 2 * entries;
    this.#directory.fill(halves[0], first, first + entries).fill(halves[1], first + entries, first + 2 * entries);
  }
}

function put(segment: Int32Array, hash: number, row: number): void {
  let place = hash & PLACE_MASK;
  while (segment[place] !== 0) place = (place + 1) & PLACE_MASK;
  segment[place] = ((hash << TAG_SHIFT) & TAG_MASK) | (row + 1);
  segment[COUNT] = (segment[COUNT] as number) + 1;
}

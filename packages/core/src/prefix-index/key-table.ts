import { KvferryError } from "../errors.js";
import type { BlockRecords } from "./block-records.js";
import { NO_ROW } from "./block-table.js";

/** Places of a segment, as a power of two; after them its count and its depth. */
const PLACE_BITS = 12;
const PLACES = 1 << PLACE_BITS;
const PLACE_MASK = PLACES - 1;
const COUNT = PLACES;
const DEPTH = PLACES + 1;
/** A segment with so many is split in two. */
const COUNT_MAX = (PLACES * 3) / 4;
/** On average, when a table is made for a known number of keys. */
const COUNT_EXPECTED = COUNT_MAX * 0.9;

/** A place holds the row plus one in its low 27 bits, 0 where it is empty, and five bits of the hash above. */
const ROW_MASK = 0x7ffffff;
const TAG_MASK = ~ROW_MASK;
/** Moves the hash's bits next to those that choose the place up to the tag's. */
const TAG_SHIFT = 32 - 5 - PLACE_BITS;

const DEPTH_MIN = 1; // a shift by 32 - 0 would shift nothing
const DEPTH_MAX = 24;

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

  constructor(records: BlockRecords, expectedKeys: number) {
    this.#records = records;
    while (this.#depth < DEPTH_MAX && 2 ** this.#depth * COUNT_EXPECTED < expectedKeys) this.#depth++;
    for (let i = 0; i < 2 ** this.#depth; i++) this.#directory.push(this.#newSegment(this.#depth));
  }

  get memoryBytes(): number {
    return this.#segments * (PLACES + 2) * 4 + this.#directory.length * 8;
  }

  /** The row of the key that lies in `words` at `from` and has this hash, or NO_ROW. */
  find(words: Int32Array, from: number, hash: number): number {
    const records = this.#records;
    const count = records.keyWords;
    const segment = this.#segment(hash);
    const tag = hash << TAG_SHIFT;
    let place = hash & PLACE_MASK;
    for (let held = segment[place] as number; held !== 0; held = segment[place] as number) {
      if (((held ^ tag) & TAG_MASK) === 0) {
        const row = (held & ROW_MASK) - 1;
        const chunk = records.chunk(row);
        const at = records.at(row);
        let i = 0;
        while (i < count && chunk[at + i] === words[from + i]) i++;
        if (i === count) return row;
      }
      place = (place + 1) & PLACE_MASK;
    }
    return NO_ROW;
  }

  /** Adds a row whose key is not there. */
  add(hash: number, row: number): void {
    let segment = this.#segment(hash);
    while ((segment[COUNT] as number) >= COUNT_MAX) {
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
    const segment = new Int32Array(PLACES + 2);
    segment[DEPTH] = depth;
    this.#segments++;
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
    for (let place = 0; place < PLACES; place++) {
      const held = segment[place] as number;
      if (held === 0) continue;
      const row = (held & ROW_MASK) - 1;
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

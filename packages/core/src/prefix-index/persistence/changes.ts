import type { BlockRecords, RecordJournal } from "../block-records.js";
import { frameBody, newFrame } from "./frames.js";

/** How much of a record an entry of the log holds. The lower contains the higher. */
const PUT = 0;
const FACTS = 1;
const TOUCHED = 2;
/** Parent, bytes, last use, tiers and uses. */
const FACTS_WORDS = 4;
/** Last use, tiers and uses. */
const TOUCHED_WORDS = 2;
/** An entry begins with a word: the row in the low 27 bits, what it holds above. */
const ROW_BITS = 27;
const ROW_MASK = (1 << ROW_BITS) - 1;
/** Changes that are gathered before they become a frame. */
const CHANGES_MAX = 8192;

/** The words of an entry after its first, which are the record's last. */
function entryWords(what: number, recordWords: number): number {
  if (what === PUT) return recordWords;
  return what === FACTS ? FACTS_WORDS : TOUCHED_WORDS;
}

/**
 * Notes which records have changed, and turns them into the body of a frame. An entry holds what the record is when the frame is made, not what was done to
 * it: a frame brings its reader to the state of that moment, however often it is applied and whatever later state some records are in.
 */
export class ChangeList implements RecordJournal {
  readonly #records: BlockRecords;
  readonly #full: () => void;
  readonly #entries: Int32Array = new Int32Array(CHANGES_MAX);
  #count = 0;

  /** @param full is called when the list must be taken at once. */
  constructor(records: BlockRecords, full: () => void) {
    this.#records = records;
    this.#full = full;
  }

  get count(): number {
    return this.#count;
  }

  put(row: number): void {
    this.#note(row, PUT);
  }

  facts(row: number): void {
    this.#note(row, FACTS);
  }

  touched(row: number): void {
    this.#note(row, TOUCHED);
  }

  clear(): void {
    this.#count = 0;
  }

  #note(row: number, what: number): void {
    const before = this.#count - 1;
    if (before >= 0 && ((this.#entries[before] as number) & ROW_MASK) === row) {
      if ((this.#entries[before] as number) >> ROW_BITS > what) this.#entries[before] = (what << ROW_BITS) | row;
      return;
    }
    if (this.#count === CHANGES_MAX) this.#full();
    this.#entries[this.#count++] = (what << ROW_BITS) | row;
  }

  /** A frame without its header yet, with the changes so far, which are forgotten. */
  take(): { readonly frame: Int32Array; readonly bodyWords: number } {
    const { recordWords } = this.#records;
    let bodyWords = 0;
    for (let i = 0; i < this.#count; i++) {
      bodyWords += 1 + entryWords((this.#entries[i] as number) >> ROW_BITS, recordWords);
    }
    const frame = newFrame(bodyWords);
    const body = frameBody(frame);
    let at = 0;
    for (let i = 0; i < this.#count; i++) {
      const entry = this.#entries[i] as number;
      const row = entry & ROW_MASK;
      const words = entryWords(entry >> ROW_BITS, recordWords);
      const chunk = this.#records.chunk(row);
      const end = this.#records.at(row) + recordWords;
      body[at++] = entry;
      for (let from = end - words; from < end; from++) body[at++] = chunk[from] as number;
    }
    this.#count = 0;
    return { frame, bodyWords };
  }
}

/** Applies a frame's body to records; false if it makes no sense, in which case none of it was applied. */
export function applyChanges(records: BlockRecords, body: Int32Array): boolean {
  const { recordWords } = records;
  let limit = records.rowLimit;
  let at = 0;
  while (at < body.length) {
    const entry = body[at] as number;
    const what = entry >> ROW_BITS;
    const row = entry & ROW_MASK;
    if (what < PUT || what > TOUCHED || (row >= limit && (what !== PUT || row > limit))) return false;
    if (row === limit) limit++;
    at += 1 + entryWords(what, recordWords);
  }
  if (at !== body.length) return false;
  records.reach(limit);
  for (at = 0; at < body.length; ) {
    const entry = body[at++] as number;
    const row = entry & ROW_MASK;
    const words = entryWords(entry >> ROW_BITS, recordWords);
    const to = records.at(row) + recordWords - words;
    const chunk = records.chunk(row);
    for (let i = 0; i < words; i++) chunk[to + i] = body[at++] as number;
  }
  return true;
}

import type { ScanEntry } from "@kvferry/core";
import { hotterFirst } from "../maintenance/copy-order.js";

/** Ages that differ by less are the same: a bucket reaches so much further back than the one before it. */
const AGE_FACTOR = 1.05;
const AGE_MIN_MS = 60_000;
/** Blocks that are put in order at once: engines wait meanwhile. */
const SORT_BLOCKS_MAX = 16_384;

/** A block that may be worth warming. */
export interface Candidate extends Pick<ScanEntry, "key" | "parent" | "storedAtMs" | "usedAtMs"> {
  /** Number of its namespace. */
  readonly source: number;
}

interface Entry extends Candidate {
  placed: boolean;
}

/**
 * Of any number of blocks the hottest ones, as many as memory is given for, and then their order: what was used last comes first, and never before the blocks that come before it in
 * its chain, as far as those are known and kept. A listing of some age has buckets by age, so that neither keeping nor ordering holds up the event loop for long.
 */
export class Hottest {
  readonly #blocksMax: number;
  readonly #nowMs: number;
  /** By age, youngest first. Blocks that came again, hotter, stay where they were and do not count. */
  readonly #buckets: Entry[][] = [];
  readonly #byKey: Map<string, Entry> = new Map();
  #leftOut = 0;

  constructor(blocksMax: number, nowMs: number) {
    this.#blocksMax = blocksMax;
    this.#nowMs = nowMs;
  }

  /** Blocks for which there was no room, being colder than all others. */
  get leftOut(): number {
    return this.#leftOut;
  }

  /** A block that is listed twice is as hot as its later use. Whether it was new. */
  add(source: number, { key, parent, storedAtMs, usedAtMs }: ScanEntry): boolean {
    const name = nameOf(source, key);
    const before = this.#byKey.get(name);
    if (before !== undefined && before.usedAtMs >= usedAtMs) return false;
    const number = this.#bucketOf(usedAtMs);
    if (before === undefined && this.#byKey.size >= this.#blocksMax && !this.#makeRoom(number)) return true;
    const entry = { source, key, parent: parent ?? before?.parent, storedAtMs, usedAtMs, placed: false };
    while (this.#buckets.length <= number) this.#buckets.push([]);
    this.#buckets[number]?.push(entry);
    this.#byKey.set(name, entry);
    return before === undefined;
  }

  /** All that are kept. To be read once. */
  *inOrder(): Generator<Candidate> {
    for (const bucket of this.#buckets) {
      for (let at = 0; at < bucket.length; at += SORT_BLOCKS_MAX) {
        for (const entry of bucket.slice(at, at + SORT_BLOCKS_MAX).sort(hotterFirst)) yield* this.#withAncestors(entry);
      }
    }
  }

  *#withAncestors(entry: Entry): Generator<Candidate> {
    const chain: Entry[] = [];
    let at = this.#byKey.get(nameOf(entry.source, entry.key)); // the hotter one of two
    while (at !== undefined && !at.placed) {
      at.placed = true;
      chain.push(at);
      at = at.parent && this.#byKey.get(nameOf(at.source, at.parent));
    }
    yield* chain.reverse();
  }

  /** Gives up a block that is colder than those of a bucket. False if there is none. */
  #makeRoom(number: number): boolean {
    this.#leftOut++;
    for (let last = this.#buckets.at(-1); last !== undefined; last = this.#buckets.at(-1)) {
      if (this.#buckets.length - 1 <= number) return false;
      const entry = last.pop();
      if (entry === undefined) {
        this.#buckets.pop();
        continue;
      }
      const name = nameOf(entry.source, entry.key);
      if (this.#byKey.get(name) !== entry) continue;
      this.#byKey.delete(name);
      return true;
    }
    return false;
  }

  #bucketOf(usedAtMs: number): number {
    const age = Math.max(AGE_MIN_MS, this.#nowMs - usedAtMs);
    return Math.ceil(Math.log(age / AGE_MIN_MS) / Math.log(AGE_FACTOR));
  }
}

function nameOf(source: number, key: Uint8Array): string {
  return `${source} ${Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString("latin1")}`;
}

import { type KeyBatch, KeySet, keyAt, LookupState } from "@kvferry/core";

/** Keys remembered as not being there, at most. */
const MISSES_MAX = 65_536;

/**
 * What this process knows of a namespace without asking: keys that are there, keys that it is storing now, and keys that were not there a moment
 * ago. A listing fills it anew while it is used: what was removed since the listing began is not taken from it.
 * What a call learns is noted after its I/O; a removal that ran meanwhile may have made it wrong, so calls compare `removals` from before and after.
 */
export class KnownKeys {
  readonly keyBytes: number;
  readonly #missTtlMs: number;
  readonly #nowMs: () => number;
  readonly #storing: Map<string, number> = new Map();
  /** Key → when it may be there again. */
  readonly #misses: Map<string, number> = new Map();
  #present: KeySet;
  /** What a listing has found so far, and what was noted since it began. */
  #fresh: KeySet | undefined;
  readonly #goneSince: Set<string> = new Set();
  /** Goes up when a removal begins and when it ends. */
  removals = 0;
  /** Whether every block that was there at some time since `open` is in it. */
  complete = false;

  constructor(keyBytes: number, missTtlMs: number, nowMs: () => number) {
    this.keyBytes = keyBytes;
    this.#missTtlMs = missTtlMs;
    this.#nowMs = nowMs;
    this.#present = new KeySet(keyBytes);
  }

  /** Blocks that are there. */
  get size(): number {
    return this.#present.size;
  }

  has(key: Uint8Array): boolean {
    return this.#present.has(key);
  }

  add(key: Uint8Array): void {
    this.#present.add(key);
    this.#fresh?.add(key);
    const text = keyText(key);
    this.#misses.delete(text);
    this.#goneSince.delete(text);
  }

  delete(key: Uint8Array): boolean {
    this.#fresh?.delete(key);
    if (this.#fresh !== undefined) this.#goneSince.add(keyText(key));
    return this.#present.delete(key);
  }

  noteMiss(key: Uint8Array): void {
    if (this.#misses.size >= MISSES_MAX) this.#misses.clear();
    this.#misses.set(keyText(key), this.#nowMs() + this.#missTtlMs);
  }

  /** Whether it was not there a moment ago. */
  isMiss(key: Uint8Array): boolean {
    const text = keyText(key);
    const until = this.#misses.get(text);
    if (until === undefined) return false;
    if (this.#nowMs() < until) return true;
    this.#misses.delete(text);
    return false;
  }

  /** Sets HIT or PENDING for the keys that are there or on the way; how many others there are, which stay MISS. */
  lookup(keys: KeyBatch, states: Uint8Array): number {
    let others = keys.count - this.#present.hasMany(keys, states); // 1 is HIT, 0 is MISS
    if (others === 0 || this.#storing.size === 0) return others;
    for (let i = 0; i < keys.count; i++) {
      if (states[i] === LookupState.HIT || !this.#storing.has(keyText(keyAt(keys, i)))) continue;
      states[i] = LookupState.PENDING;
      others--;
    }
    return others;
  }

  beginStoring(key: Uint8Array): void {
    const text = keyText(key);
    this.#storing.set(text, (this.#storing.get(text) ?? 0) + 1);
  }

  endStoring(key: Uint8Array): void {
    const text = keyText(key);
    const left = (this.#storing.get(text) ?? 1) - 1;
    if (left === 0) this.#storing.delete(text);
    else this.#storing.set(text, left);
  }

  beginListing(): void {
    this.#fresh = new KeySet(this.keyBytes, this.#present.size);
    this.#goneSince.clear();
  }

  listed(key: Uint8Array): void {
    if (this.#goneSince.size > 0 && this.#goneSince.has(keyText(key))) return;
    this.#fresh?.add(key);
    if (!this.complete) this.#present.add(key); // the sooner it is known the better
  }

  endListing(whole: boolean): void {
    if (whole && this.#fresh !== undefined) {
      this.#present = this.#fresh;
      this.complete = true;
    }
    this.#fresh = undefined;
    this.#goneSince.clear();
  }
}

/** A key as a map's key: one character a byte. */
export function keyText(key: Uint8Array): string {
  return Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString("latin1");
}

import { type KeyBatch, KeySet, keyAt, LookupState } from "@kvferry/core";

/** What this process knows of a folder without asking it: keys that are there, and keys that it is storing now. What a call learns is
 * noted after its I/O; a removal that ran meanwhile may have made it wrong, so calls compare `removals` from before and after. */
export class Presence {
  readonly #present: KeySet;
  readonly #storing: Map<string, number> = new Map();
  /** Goes up when a removal begins and when it ends. */
  removals = 0;

  constructor(keyBytes: number) {
    this.#present = new KeySet(keyBytes);
  }

  get keyBytes(): number {
    return this.#present.keyBytes;
  }

  get size(): number {
    return this.#present.size;
  }

  has(key: Uint8Array): boolean {
    return this.#present.has(key);
  }

  add(key: Uint8Array): void {
    this.#present.add(key);
  }

  addAll(keys: KeyBatch): void {
    for (let i = 0; i < keys.count; i++) this.#present.add(keyAt(keys, i));
  }

  /** Forgets what is there, not what is being stored. */
  clear(): void {
    this.#present.clear();
  }

  delete(key: Uint8Array): boolean {
    return this.#present.delete(key);
  }

  /** Sets HIT or PENDING for the keys it knows; returns the positions of the others, which stay MISS. */
  lookup(keys: KeyBatch, states: Uint8Array): number[] {
    const unknown: number[] = [];
    this.#present.hasMany(keys, states); // 1 is HIT, 0 is MISS
    for (let i = 0; i < keys.count; i++) {
      if (states[i] === LookupState.HIT) continue;
      if (this.#storing.size > 0 && this.#storing.has(keyText(keyAt(keys, i)))) states[i] = LookupState.PENDING;
      else unknown.push(i);
    }
    return unknown;
  }

  beginStoring(keys: KeyBatch): void {
    for (let i = 0; i < keys.count; i++) {
      const text = keyText(keyAt(keys, i));
      this.#storing.set(text, (this.#storing.get(text) ?? 0) + 1);
    }
  }

  endStoring(keys: KeyBatch): void {
    for (let i = 0; i < keys.count; i++) {
      const text = keyText(keyAt(keys, i));
      const left = (this.#storing.get(text) ?? 1) - 1;
      if (left === 0) this.#storing.delete(text);
      else this.#storing.set(text, left);
    }
  }
}

/** A key as a map's key: one character a byte. */
export function keyText(key: Uint8Array): string {
  return Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString("latin1");
}

import { type KeyBatch, keyHex, packKeys } from "../keys.js";

export interface LateStoresOptions {
  /** So long may a store that has failed still take effect. */
  readonly lateMs: number;
  monotonicMs(): number;
  exists(key: Uint8Array): Promise<boolean>;
  /** Ends the reservation of one block: it is in `keys` if it is there. */
  settle(keys: KeyBatch): void;
}

interface LateStore {
  readonly key: Uint8Array;
  readonly dueAtMs: number;
}

/**
 * Stores that failed in a way that does not tell whether the storage carries them out: cut off by a deadline, or by the network. They hold their room until they cannot
 * take effect any more, and are looked for then.
 */
export class LateStores {
  readonly #options: LateStoresOptions;
  readonly #waiting: Map<string, LateStore> = new Map();
  readonly #emptyKeys: KeyBatch;

  constructor(keyBytes: number, options: LateStoresOptions) {
    this.#options = options;
    this.#emptyKeys = packKeys([], keyBytes);
  }

  /** The room of one block goes over to this. */
  add(key: Uint8Array): void {
    const name = keyHex(key);
    // there is one block of a key, however often it is stored
    if (this.#waiting.delete(name)) this.#options.settle(this.#emptyKeys);
    this.#waiting.set(name, { key: key.slice(), dueAtMs: this.#options.monotonicMs() + this.#options.lateMs });
  }

  /** Looks for those that are due. Ms until the next one is; infinite if there is none. */
  async turn(): Promise<number> {
    for (const [name, store] of this.#waiting) {
      const leftMs = store.dueAtMs - this.#options.monotonicMs();
      if (leftMs > 0) return leftMs; // those behind it came later
      const found = await this.#options.exists(store.key);
      if (this.#waiting.get(name) !== store) continue; // it was stored again meanwhile
      this.#waiting.delete(name);
      this.#options.settle(found ? packKeys([store.key]) : this.#emptyKeys);
    }
    return Number.POSITIVE_INFINITY;
  }

  /** Nobody will look any more. Of so many blocks the room is still held. */
  giveUp(): number {
    const { size } = this.#waiting;
    this.#waiting.clear();
    return size;
  }
}

import { type FolderUser, type KeyBatch, keyAt, selectKeys } from "@kvferry/core";
import { type KnownKeys, keyText } from "../known-keys.js";

/** So long after a store an eviction that is heard of may be older than the store. */
const RECENT_MS = 5 * 60_000;
const RECENT_KEYS_MAX = 65_536;

export interface EvictedOptions {
  readonly folder: string;
  readonly known: KnownKeys;
  nowMs(): number;
  /** One byte a key: 1 where its block is there. */
  exists(keys: KeyBatch): Promise<Uint8Array>;
  announce(keys: KeyBatch): void;
  /** Lists the blocks anew, in the background. */
  relist(): void;
}

/** Keeps what is known of a namespace right while evictors, of this process or others, remove blocks below it. */
export class Evicted implements FolderUser {
  readonly folder: string;
  readonly #options: EvictedOptions;
  /** Key → when this process has stored it; the oldest first. */
  readonly #recent: Map<string, number> = new Map();

  constructor(options: EvictedOptions) {
    this.folder = options.folder;
    this.#options = options;
  }

  /** This process has stored a block: what others have evicted before that is none of it. */
  stored(key: Uint8Array): void {
    const now = this.#options.nowMs();
    const name = keyText(key);
    this.#recent.delete(name);
    this.#recent.set(name, now);
    for (const [old, atMs] of this.#recent) {
      if (this.#recent.size <= RECENT_KEYS_MAX && now - atMs < RECENT_MS) break;
      this.#recent.delete(old);
    }
  }

  evicting(): void {
    this.#options.known.removals++;
  }

  evicted(keys: KeyBatch): void {
    const { known, announce } = this.#options;
    for (let i = 0; i < keys.count; i++) {
      known.delete(keyAt(keys, i));
      this.#recent.delete(keyText(keyAt(keys, i)));
    }
    known.removals++;
    if (keys.count > 0) announce(keys);
  }

  /** Only blocks that this process has stored lately are looked for: a request for each block that others evict, by each server, would cost more than it helps. What another server has
   * stored again meanwhile is found by the next lookup. */
  async evictedElsewhere(keys: KeyBatch): Promise<void> {
    if (keys.stride !== this.#options.known.keyBytes) return; // a damaged log
    const positions = Array.from({ length: keys.count }, (_, i) => i);
    const recent = positions.filter((i) => this.#recent.has(keyText(keyAt(keys, i))));
    const kept = new Set<number>();
    let gone = selectKeys(keys, []);
    this.evicting();
    try {
      const there = recent.length === 0 ? [] : await this.#options.exists(selectKeys(keys, recent));
      for (const [n, i] of recent.entries()) if (there[n] === 1) kept.add(i);
      gone = selectKeys(
        keys,
        positions.filter((i) => !kept.has(i)),
      );
    } finally {
      this.evicted(gone);
    }
  }

  evictionsMissed(): void {
    this.#options.relist();
  }
}

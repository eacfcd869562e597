import { type KeyBatch, keyAt, selectKeys } from "@kvferry/core";
import { keyText } from "../known-keys.js";

/** So long after a store an eviction that is heard of may be older than the store. */
const RECENT_MS = 5 * 60_000;
const RECENT_KEYS_MAX = 65_536;

/** What this process has stored lately: what others say of having evicted it may be older. */
export class RecentStores {
  readonly #nowMs: () => number;
  /** Key → when it was stored; the oldest first. */
  readonly #storedAtMs: Map<string, number> = new Map();

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  add(key: Uint8Array): void {
    const now = this.#nowMs();
    const name = keyText(key);
    this.#storedAtMs.delete(name);
    this.#storedAtMs.set(name, now);
    for (const [old, atMs] of this.#storedAtMs) {
      if (this.#storedAtMs.size <= RECENT_KEYS_MAX && now - atMs < RECENT_MS) break;
      this.#storedAtMs.delete(old);
    }
  }

  forget(keys: KeyBatch): void {
    for (let i = 0; i < keys.count; i++) this.#storedAtMs.delete(keyText(keyAt(keys, i)));
  }

  /** One byte a key: 1 where a block that was stored lately is there. The others are not asked for: a request for each block that others evict, by each server, would cost
   * more than it helps. What another server has stored again meanwhile is found by the next lookup. */
  async there(keys: KeyBatch, exists: (keys: KeyBatch) => Promise<Uint8Array>): Promise<Uint8Array> {
    const there = new Uint8Array(keys.count);
    const recent = [...there.keys()].filter((i) => this.#storedAtMs.has(keyText(keyAt(keys, i))));
    if (recent.length === 0) return there;
    const found = await exists(selectKeys(keys, recent));
    for (const [n, i] of recent.entries()) there[i] = found[n] as number;
    return there;
  }
}

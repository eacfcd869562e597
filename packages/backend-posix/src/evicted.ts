import { type FolderUser, type KeyBatch, keyAt, selectKeys } from "@kvferry/core";
import type { Presence } from "./presence.js";

export interface EvictedOptions {
  readonly folder: string;
  readonly presence: Presence;
  /** One byte a key: 1 where its block is there. */
  exists(keys: KeyBatch): Promise<Uint8Array>;
  announce(keys: KeyBatch): void;
  /** Lists the folder anew. */
  reindex(): void;
}

/** Keeps a namespace's presence index right while evictors, of this process or others, remove blocks below it. */
export class Evicted implements FolderUser {
  readonly folder: string;
  readonly #options: EvictedOptions;

  constructor(options: EvictedOptions) {
    this.folder = options.folder;
    this.#options = options;
  }

  evicting(): void {
    this.#options.presence.removals++;
  }

  evicted(keys: KeyBatch): void {
    const { presence, announce } = this.#options;
    for (let i = 0; i < keys.count; i++) presence.delete(keyAt(keys, i));
    presence.removals++;
    if (keys.count > 0) announce(keys);
  }

  async evictedElsewhere(keys: KeyBatch): Promise<void> {
    if (keys.stride !== this.#options.presence.keyBytes) return; // a damaged log
    let gone: KeyBatch = { bytes: new Uint8Array(0), stride: keys.stride, count: 0 };
    this.evicting();
    try {
      const there = await this.#options.exists(keys);
      gone = selectKeys(
        keys,
        [...there.keys()].filter((i) => there[i] === 0),
      );
    } finally {
      this.evicted(gone);
    }
  }

  evictionsMissed(): void {
    this.#options.reindex();
  }
}

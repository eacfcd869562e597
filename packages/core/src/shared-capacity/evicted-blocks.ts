import { type KeyBatch, keyAt, selectKeys } from "../keys.js";
import type { FolderUser } from "./shared-root.js";

/** What a process knows of a folder without asking, as far as evictions change it. */
export interface KnownBlocks {
  readonly keyBytes: number;
  /** Goes up when a removal begins and when it ends. */
  removals: number;
  delete(key: Uint8Array): boolean;
}

export interface EvictedBlocksOptions {
  readonly folder: string;
  readonly known: KnownBlocks;
  /** Another process says that it has evicted these. One byte a key: 0 where that holds, else the block has been stored again since. */
  remain(keys: KeyBatch): Promise<Uint8Array>;
  announce(keys: KeyBatch): void;
  /** Lists the folder anew, in the background. */
  relist(): void;
}

/** Keeps what is known of a folder right while evictors, of this process or others, remove blocks from it. */
export class EvictedBlocks implements FolderUser {
  readonly folder: string;
  readonly #options: EvictedBlocksOptions;

  constructor(options: EvictedBlocksOptions) {
    this.folder = options.folder;
    this.#options = options;
  }

  evicting(): void {
    this.#options.known.removals++;
  }

  evicted(keys: KeyBatch): void {
    const { known, announce } = this.#options;
    for (let i = 0; i < keys.count; i++) known.delete(keyAt(keys, i));
    known.removals++;
    if (keys.count > 0) announce(keys);
  }

  async evictedElsewhere(keys: KeyBatch): Promise<void> {
    if (keys.stride !== this.#options.known.keyBytes) return; // a damaged log
    let gone: KeyBatch = { bytes: new Uint8Array(0), stride: keys.stride, count: 0 };
    this.evicting();
    try {
      const remaining = await this.#options.remain(keys);
      gone = selectKeys(
        keys,
        [...remaining.keys()].filter((i) => remaining[i] === 0),
      );
    } finally {
      this.evicted(gone);
    }
  }

  evictionsMissed(): void {
    this.#options.relist();
  }
}

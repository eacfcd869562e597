import { createHash } from "node:crypto";
import { mkdir, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { type Clock, type LeaderIndexes, PersistentIndex, PrefixIndex } from "@kvferry/core";
import { crc32c } from "@kvferry/native";

/** What a leader that is killed forgets of uses. */
const FLUSH_INTERVAL_MS = 5000;

export interface SavedIndexesOptions {
  /** `capacity/` below the root. */
  readonly folder: string;
  readonly epoch: number;
  readonly clock: Clock;
  warn(thrown: unknown): void;
}

/**
 * The leader's indexes on storage, in a folder of its epoch. A new leader takes the folder of the last one by renaming it, and writes a snapshot of its own at once: what a
 * leader that was deposed without knowing it still writes goes into files that nobody reads. Losing them costs recency and chains, nothing else.
 */
export class SavedIndexes implements LeaderIndexes {
  readonly #options: SavedIndexesOptions;
  readonly #open: PersistentIndex[] = [];
  #taken: Promise<void> | undefined;

  constructor(options: SavedIndexesOptions) {
    this.#options = options;
  }

  async open(folder: string, keyBytes: number): Promise<PrefixIndex> {
    const { clock, warn } = this.#options;
    const place = join(this.#place(this.#options.epoch), folder);
    const identity = createHash("sha256").update(folder).digest();
    const options = { folder: place, keyBytes, identity, checksum: crc32c, clock, flushIntervalMs: FLUSH_INTERVAL_MS };
    try {
      this.#taken ??= this.#takeLast();
      await this.#taken;
      const saved = await PersistentIndex.open(options).catch(async () => {
        await rm(place, { recursive: true, force: true }); // of other keys, or of a later version
        return PersistentIndex.open(options);
      });
      this.#open.push(saved);
      await saved.snapshot();
      return saved.index;
    } catch (thrown) {
      warn(thrown);
      return new PrefixIndex({ keyBytes });
    }
  }

  async close(): Promise<void> {
    for (const saved of this.#open) await saved.close();
  }

  #place(epoch: number): string {
    return join(this.#options.folder, `index-${epoch}`);
  }

  /** Takes over the newest folder of an earlier epoch, and removes the others. */
  async #takeLast(): Promise<void> {
    const { folder, epoch } = this.#options;
    const earlier = (await readdir(folder))
      .map((name) => Number(/^index-(\d{1,15})$/.exec(name)?.[1] ?? Number.NaN))
      .filter((found) => found < epoch)
      .sort((a, b) => b - a);
    const last = earlier.shift();
    if (last !== undefined) await rename(this.#place(last), this.#place(epoch));
    else await mkdir(this.#place(epoch), { recursive: true });
    for (const old of earlier) await rm(this.#place(old), { recursive: true, force: true });
  }
}

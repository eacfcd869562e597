import type { KeyBatch } from "../keys.js";
import type { LogPosition } from "./documents.js";
import type { CapacityFiles } from "./files.js";
import { LOG_FILE_BYTES, readLog } from "./log.js";
import { evictionsName, parseName } from "./names.js";

export interface FollowedEvictionsOptions {
  readonly files: CapacityFiles;
  /** Another server's evictor has removed these. */
  onEvicted(folder: string, keys: KeyBatch): Promise<void>;
  /** Evictions may have been missed. */
  onLost(): void;
}

/** Hears what leaders of other processes evict. Leaders that were deposed are heard too, as long as their logs are there: their last removals may come late. */
export class FollowedEvictions {
  readonly #options: FollowedEvictionsOptions;
  readonly #read: Map<number, LogPosition> = new Map();
  #newest = 0;
  #began = false;

  constructor(options: FollowedEvictionsOptions) {
    this.#options = options;
  }

  /** One turn. `own`: the epoch that this process leads itself, which it need not read. */
  async follow(names: readonly string[], epoch: number, own: number): Promise<void> {
    const filesOf = new Map<number, number[]>();
    for (const name of names) {
      const parsed = parseName(name);
      if (parsed?.kind !== "evictions" || parsed.epoch === own) continue;
      filesOf.set(parsed.epoch, [...(filesOf.get(parsed.epoch) ?? []), parsed.file]);
    }
    for (const [ofEpoch, files] of filesOf) await this.#readOn(ofEpoch, files);
    for (const ofEpoch of this.#read.keys()) if (!filesOf.has(ofEpoch)) this.#read.delete(ofEpoch);
    // a leader that was killed may have removed blocks and not said so
    if (this.#began && epoch > this.#newest && this.#newest > 0) this.#options.onLost();
    this.#newest = Math.max(this.#newest, epoch);
    this.#began = true;
  }

  async #readOn(epoch: number, files: readonly number[]): Promise<void> {
    const { onEvicted, onLost } = this.#options;
    const newest = Math.max(...files);
    let at = this.#read.get(epoch);
    if (at === undefined) {
      // what was evicted before this process looked at its folders is none of its business
      at = this.#began ? { file: 0, offset: 0 } : await this.#endOf(epoch, newest);
      this.#read.set(epoch, at);
    }
    for (;;) {
      const nameOf = (file: number): string => evictionsName(epoch, file);
      if (!files.includes(at.file)) {
        if (at.file > newest) return; // listed before it was made
        at = { file: Math.min(...files), offset: 0 };
        onLost();
      }
      const part = await readLog(this.#options.files, nameOf, at);
      for (const { folder, keys } of part.records) await onEvicted(folder, keys);
      if (part.damaged) {
        at = await this.#endOf(epoch, newest);
        onLost();
      } else at = part.position;
      if (at.offset >= LOG_FILE_BYTES && newest > at.file) at = { file: at.file + 1, offset: 0 };
      else if (!part.more || part.damaged) break;
    }
    this.#read.set(epoch, at);
  }

  async #endOf(epoch: number, file: number): Promise<LogPosition> {
    let offset = 0;
    for (;;) {
      const bytes = await this.#options.files.read(evictionsName(epoch, file), offset, LOG_FILE_BYTES);
      if (bytes === undefined || bytes.length === 0) return { file, offset };
      offset += bytes.length;
    }
  }
}

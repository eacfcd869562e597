import { DOCUMENT_BYTES_MAX, decodeLease, encodeDocument } from "./documents.js";
import type { CapacityFiles } from "./files.js";
import { epochName, newestEpoch, parseName } from "./names.js";

/** Epochs whose files stay, for those who read the folder while it changes. */
const EPOCHS_KEPT = 4;

export interface LeaseOptions {
  readonly files: CapacityFiles;
  readonly writer: string;
  /** An unchanged lease is free after so long, by the clock of who looks at it. */
  readonly expiryMs: number;
  monotonicMs(): number;
  /** Whether a writer has surely ended. */
  hasEnded(writer: string): boolean;
}

/**
 * Who leads: the writer that made the epoch file with the highest number. Files are made exclusively and never changed by others, so that an epoch has one leader, a
 * leader that was paused cannot take its epoch back, and everyone sees by one listing of the folder whether an epoch is over.
 */
export class Lease {
  readonly #options: LeaseOptions;
  #held = 0;
  #highest = 0;
  #beat = 0;
  #seen = "";
  #seenAtMs = 0;

  constructor(options: LeaseOptions) {
    this.#options = options;
  }

  /** The epoch that this writer leads, as far as it knows; 0 if none. */
  get held(): number {
    return this.#held;
  }

  /** Takes note of a listing. The epoch that is current: the highest that was ever seen, if it is still there, else 0. */
  note(names: readonly string[]): number {
    const newest = newestEpoch(names);
    if (newest > this.#highest) this.#highest = newest;
    const current = newest === this.#highest ? newest : 0;
    if (this.#held !== current) this.#held = 0;
    return current;
  }

  /** Whether nobody leads any more. */
  async isFree(names: readonly string[]): Promise<boolean> {
    const { files, monotonicMs, expiryMs, hasEnded } = this.#options;
    const current = this.note(names);
    if (current === 0) return true;
    if (current === this.#held) return false;
    const bytes = (await files.read(epochName(current), 0, DOCUMENT_BYTES_MAX)) ?? new Uint8Array(0);
    const document = decodeLease(bytes);
    if (document?.resigned || (document !== undefined && hasEnded(document.writer))) return true;
    const seen = `${current}:${Buffer.from(bytes.subarray(0, 1024)).toString("latin1")}`;
    const now = monotonicMs();
    if (seen !== this.#seen) {
      this.#seen = seen;
      this.#seenAtMs = now;
    }
    return now - this.#seenAtMs > expiryMs;
  }

  /** Tries to lead the next epoch. */
  async take(): Promise<boolean> {
    const { files } = this.#options;
    const epoch = this.#highest + 1;
    if (!(await files.create(epochName(epoch), this.#document(false)))) {
      this.note(await files.list());
      return false;
    }
    this.#held = epoch; // unless a higher one was made meanwhile
    try {
      const names = await files.list();
      if (this.note(names) !== epoch) return false;
      for (const name of names) {
        const parsed = parseName(name);
        if (parsed?.kind === "epoch" && parsed.epoch <= epoch - EPOCHS_KEPT) await files.remove(name);
      }
      return true;
    } catch (thrown) {
      this.#held = 0; // nobody leads this epoch: it runs out, also for this writer
      throw thrown;
    }
  }

  /** Shows that the leader lives. Writes nothing but its own epoch's file. */
  async renew(): Promise<void> {
    const epoch = this.#held;
    if (epoch !== 0) await this.#options.files.replace(epochName(epoch), this.#document(false));
  }

  async resign(): Promise<void> {
    const epoch = this.#held;
    this.#held = 0;
    if (epoch !== 0) await this.#options.files.replace(epochName(epoch), this.#document(true));
  }

  #document(resigned: boolean): Uint8Array {
    this.#beat++;
    return encodeDocument({ writer: this.#options.writer, beat: this.#beat, resigned });
  }
}

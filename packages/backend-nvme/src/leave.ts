import type { KeyBatch, Logger } from "@kvferry/core";
import { LeavingBatch, type LeavingParts } from "./leaving-batch.js";
import { nvmeManifest } from "./manifest.js";
import type { Shelf } from "./shelf.js";

/** How long the blocks of a segment stay to be copied while nobody waits for its room. */
const CASCADE_MS = 10_000;
/** How long they stay from then on, or once a store waits: enough for reads, and not for a next tier that is behind. */
const HURRY_MS = 1000;
/** Bytes of the blocks that listeners hear of at once, at most, but always one block. */
const BATCH_BYTES_MAX = 16 * 1024 * 1024;

export interface LeaveParts extends LeavingParts {
  readonly logger: Logger;
  /** So many damaged blocks were found. */
  corrupt(blocks: number): void;
}

/** Lets others copy the blocks of a segment before it is given up: batch by batch, so that those whose turn has not come can still be loaded. */
export class Leave {
  readonly #parts: LeaveParts;
  readonly #leaving: Set<LeavingBatch> = new Set();
  #time: LeaveTime | undefined;

  constructor(parts: LeaveParts) {
    this.#parts = parts;
  }

  /** Somebody waits for the segment. */
  hurry(): void {
    this.#time?.hurry();
  }

  /** Settles when the listeners have what they want, or their time is over; the blocks of which they have heard are out of their shelves, and
   * announced. How many those are. */
  async letCopy(segment: number, live: ReadonlyMap<Shelf, readonly number[]>, isWaitedFor: boolean): Promise<number> {
    const listened = [...live].filter(([shelf]) => shelf.hasListeners);
    if (listened.length === 0) return 0;
    const time = new LeaveTime();
    this.#time = time;
    if (isWaitedFor) time.hurry();
    try {
      const counts = await Promise.all(listened.map(([shelf, rows]) => this.#letGo(segment, shelf, rows, time)));
      return counts.reduce((sum, each) => sum + each, 0);
    } finally {
      if (time.isOver) {
        this.#parts.logger.warn({ segment }, "blocks went before they were copied: whoever copies them took too long");
      }
      this.#time = undefined;
      time.stop();
    }
  }

  /** These keys are removed. Positions of those that were on their way out. */
  withdraw(shelf: Shelf, keys: KeyBatch): number[] {
    return [...this.#leaving].filter((batch) => batch.shelf === shelf).flatMap((batch) => batch.withdraw(keys));
  }

  async #letGo(segment: number, shelf: Shelf, rows: readonly number[], time: LeaveTime): Promise<number> {
    const { batchKeysMax } = nvmeManifest.limits;
    const perBatch = Math.max(1, Math.min(batchKeysMax, Math.floor(BATCH_BYTES_MAX / shelf.paddedBytes)));
    const { segmentBytes } = this.#parts.drive;
    let gone = 0;
    for (let at = 0; at < rows.length && !time.isOver; at += perBatch) {
      const part = rows.slice(at, at + perBatch).filter((row) => shelf.isIn(row, segment, segmentBytes));
      if (part.length === 0) continue;
      gone += part.length;
      const batch = new LeavingBatch(this.#parts, segment, shelf, part, time.patience);
      this.#leaving.add(batch);
      const told = Promise.allSettled([...shelf.users].map(({ evicting }) => evicting.tell(batch)));
      await Promise.race([told, time.over]);
      this.#leaving.delete(batch);
      const damaged = batch.end();
      if (damaged > 0) this.#parts.corrupt(damaged);
    }
    return gone;
  }
}

/** The time that the blocks of one segment have. */
class LeaveTime {
  readonly over: Promise<void>;
  isOver = false;
  readonly #patience: AbortController = new AbortController();
  #end: () => void = () => {};
  #timer: NodeJS.Timeout;

  constructor() {
    this.over = new Promise((resolve) => {
      this.#end = () => {
        this.isOver = true;
        resolve();
      };
    });
    this.#timer = setTimeout(() => this.hurry(), CASCADE_MS);
  }

  /** Not aborted as long as nobody waits. */
  get patience(): AbortSignal {
    return this.#patience.signal;
  }

  hurry(): void {
    if (this.patience.aborted) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(this.#end, HURRY_MS);
    this.#patience.abort();
  }

  stop(): void {
    clearTimeout(this.#timer);
  }
}

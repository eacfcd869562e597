import { createMemoryRegion, type Region } from "../region.js";

interface Waiter {
  readonly rowsMax: number;
  take(rows: Uint32Array | undefined): void;
}

/** Rows of a region of our own, lent to one call at a time, in the order of asking. */
export class StagingPool {
  readonly region: Region;
  readonly #free: number[];
  readonly #waiters: Set<Waiter> = new Set();

  constructor(rows: number, rowBytes: number, createRegion: typeof createMemoryRegion = createMemoryRegion) {
    this.region = createRegion(rows, rowBytes);
    this.#free = Array.from({ length: rows }, (_, i) => i);
  }

  /** Rows that nobody has. */
  get freeRows(): number {
    return this.#free.length;
  }

  /** 1 to `rowsMax` rows, as soon as one is free; undefined once the signal is aborted. */
  async take(rowsMax: number, signal: AbortSignal | undefined): Promise<Uint32Array | undefined> {
    if (signal?.aborted) return undefined;
    if (this.#free.length > 0 && this.#waiters.size === 0) return this.#lend(rowsMax);
    return new Promise((resolve) => {
      const onAbort = (): void => waiter.take(undefined);
      const waiter: Waiter = {
        rowsMax,
        take: (rows) => {
          signal?.removeEventListener("abort", onAbort);
          this.#waiters.delete(waiter);
          resolve(rows);
        },
      };
      this.#waiters.add(waiter);
      signal?.addEventListener("abort", onAbort, { once: true });
    });
  }

  /** As many of `rowsMax` rows as are free now, or none: others who wait come first. */
  takeNow(rowsMax: number): Uint32Array {
    return this.#waiters.size > 0 ? new Uint32Array(0) : this.#lend(rowsMax);
  }

  /** Gives rows back. Nothing may touch them any more. */
  give(rows: Uint32Array): void {
    this.#free.push(...rows);
    for (const waiter of this.#waiters) {
      if (this.#free.length === 0) return;
      waiter.take(this.#lend(waiter.rowsMax));
    }
  }

  #lend(rowsMax: number): Uint32Array {
    const rows = Math.min(rowsMax, this.#free.length);
    return Uint32Array.from(this.#free.splice(this.#free.length - rows, rows));
  }
}

const BUCKETS = 10;

/** How many calls there were in the last `windowMs`, and how many of them failed; forgets in steps of a tenth of it. */
export class CallWindow {
  readonly #bucketMs: number;
  readonly #calls: Uint32Array = new Uint32Array(BUCKETS);
  readonly #failures: Uint32Array = new Uint32Array(BUCKETS);
  #newest = 0;

  constructor(windowMs: number) {
    this.#bucketMs = windowMs / BUCKETS;
  }

  add(nowMs: number, failed: boolean): void {
    const bucket = this.#advance(nowMs);
    this.#calls[bucket] = (this.#calls[bucket] as number) + 1;
    if (failed) this.#failures[bucket] = (this.#failures[bucket] as number) + 1;
  }

  counts(nowMs: number): { calls: number; failures: number } {
    this.#advance(nowMs);
    return { calls: sum(this.#calls), failures: sum(this.#failures) };
  }

  clear(): void {
    this.#calls.fill(0);
    this.#failures.fill(0);
  }

  /** Empties the buckets whose time has come round again; the bucket of now. */
  #advance(nowMs: number): number {
    const now = Math.floor(nowMs / this.#bucketMs);
    for (let n = Math.max(this.#newest + 1, now - BUCKETS + 1); n <= now; n++) {
      this.#calls[n % BUCKETS] = 0;
      this.#failures[n % BUCKETS] = 0;
    }
    this.#newest = Math.max(this.#newest, now);
    return this.#newest % BUCKETS;
  }
}

function sum(values: Uint32Array): number {
  return values.reduce((total, each) => total + each, 0);
}

import { setTimeout as sleep } from "node:timers/promises";

/** Time not used that may be made up for: short stalls cost no speed, and a long one is followed by no burst. */
const CREDIT_MS_MAX = 100;

/** Lets bytes through at a rate, evenly: a token bucket that holds a tenth of a second. Any number of callers share it. */
export class Pace {
  readonly #bytesPerMs: number | undefined;
  /** When all that was let through is paid for; monotonic ms. */
  #paidAtMs = Number.NEGATIVE_INFINITY;

  /** @param bytesPerSecond undefined: no bound. */
  constructor(bytesPerSecond: number | undefined) {
    this.#bytesPerMs = bytesPerSecond === undefined ? undefined : bytesPerSecond / 1000;
  }

  /** Until `bytes` more may be moved. An abort ends the wait. */
  async wait(bytes: number, signal: AbortSignal | undefined): Promise<void> {
    if (this.#bytesPerMs === undefined) return;
    const nowMs = performance.now();
    const dueMs = Math.max(this.#paidAtMs, nowMs - CREDIT_MS_MAX);
    this.#paidAtMs = dueMs + bytes / this.#bytesPerMs;
    if (dueMs > nowMs) await sleep(dueMs - nowMs, undefined, { ...(signal && { signal }) }).catch(() => {});
  }
}

/** Ms after the end of a backend was asked for in which calls may still end by themselves. */
const LAST_CALLS_MS = 2_000;

/** Calls that hang, and whose callers wait for ever, must not keep a backend from closing: some time after it began to, they are aborted. */
export class LastCalls {
  readonly #calls: Set<AbortController> = new Set();
  readonly #ended: AbortController = new AbortController();
  #timer: NodeJS.Timeout | undefined;

  /** Aborted when no call may last any longer. */
  get signal(): AbortSignal {
    return this.#ended.signal;
  }

  /** Makes a call whose signal aborts with the caller's, or when no call may last any longer. */
  async run<T>(signal: AbortSignal | undefined, call: (until: AbortSignal) => Promise<T>): Promise<T> {
    const own = new AbortController();
    const abort = (): void => own.abort(signal?.reason);
    if (signal?.aborted) abort();
    signal?.addEventListener("abort", abort, { once: true });
    this.#calls.add(own);
    try {
      return await call(own.signal);
    } finally {
      this.#calls.delete(own);
      signal?.removeEventListener("abort", abort);
    }
  }

  /** May be called twice. */
  begin(): void {
    this.#timer ??= setTimeout(() => this.end(), LAST_CALLS_MS);
  }

  /** Now. */
  end(): void {
    clearTimeout(this.#timer);
    this.#ended.abort();
    for (const call of this.#calls) call.abort();
  }
}

/** Work that goes on when its caller has turned away. It touches no slot then, and is waited for at the end. */
export class Background {
  readonly #running: Set<Promise<unknown>> = new Set();

  /** The task's own promise; that it is also waited for here makes its failure nobody's unhandled one. */
  start<T>(task: () => Promise<T>): Promise<T> {
    const running = task();
    const tracked: Promise<unknown> = running.catch(() => {}).finally(() => this.#running.delete(tracked));
    this.#running.add(tracked);
    return running;
  }

  /** Ends when nothing runs any more. */
  async idle(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
  }
}

/** The end of `work`, or of the signal's patience.
 * @throws the signal's reason as soon as it is aborted. */
export function untilAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  return new Promise<T>((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason);
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

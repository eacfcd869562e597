/** Work that no call waits for. It touches no slot, and is waited for at the end. */
export class Background {
  readonly #running: Set<Promise<void>> = new Set();

  /** What the task throws is not heard: whoever wants to tell of it tells within. */
  start(task: () => Promise<void>): Promise<void> {
    const running: Promise<void> = task()
      .catch(() => {})
      .finally(() => this.#running.delete(running));
    this.#running.add(running);
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

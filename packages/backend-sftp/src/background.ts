import { setMaxListeners } from "node:events";

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

/** Runs a step for each of a number of things, so many at once, and waits for all that have begun, also when one throws. */
export async function each(count: number, atOnceMax: number, step: (index: number) => Promise<void>): Promise<void> {
  let next = 0;
  let failed = false;
  const work = async (): Promise<void> => {
    while (next < count && !failed) {
      await step(next++).catch((thrown: unknown) => {
        failed = true;
        throw thrown;
      });
    }
  };
  const ended = await Promise.allSettled(Array.from({ length: Math.min(count, atOnceMax) }, work));
  for (const one of ended) if (one.status === "rejected") throw one.reason;
}

/** A signal that follows the caller's, for any number of listeners: the caller's gets one, however many files a batch has. */
export function signalOfBatch(signal: AbortSignal | undefined): {
  readonly signal: AbortSignal | undefined;
  release(): void;
} {
  if (signal === undefined) return { signal, release() {} };
  const controller = new AbortController();
  setMaxListeners(0, controller.signal);
  const onAbort = (): void => controller.abort(signal.reason);
  if (signal.aborted) onAbort();
  else signal.addEventListener("abort", onAbort, { once: true });
  return { signal: controller.signal, release: () => signal.removeEventListener("abort", onAbort) };
}

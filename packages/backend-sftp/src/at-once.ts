import { setMaxListeners } from "node:events";

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

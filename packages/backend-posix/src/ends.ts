/** Aborts with the signal, or after a time. */
export function endOf(signal: AbortSignal | undefined, ms: number): AbortSignal {
  return AbortSignal.any([...(signal === undefined ? [] : [signal]), AbortSignal.timeout(ms)]);
}

/** The promise or, when the signal aborts first, its reason: what still runs is left alone. */
export async function endsBy<T>(running: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return running;
  return new Promise<T>((resolve, reject) => {
    const abort = (): void => reject(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort, { once: true });
    running.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}

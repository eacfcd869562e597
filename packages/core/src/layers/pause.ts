/** Waits; false, at once, when the signal is aborted. */
export function pause(ms: number, signal: AbortSignal | undefined): Promise<boolean> {
  if (signal?.aborted) return Promise.resolve(false);
  return new Promise((resolve) => {
    const onAbort = (): void => end(false);
    const timer = setTimeout(() => end(true), ms);
    const end = (whole: boolean): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      resolve(whole);
    };
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}

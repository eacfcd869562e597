import { type OffloadBackend, Outcome, packKeys } from "@kvferry/core";

export interface SweepCounts {
  /** Blocks that were looked at. */
  seen: number;
  /** Of them, unused for so long. */
  unused: number;
  /** What they take. */
  unusedBytes: number;
  removed: number;
  failed: number;
}

export interface SweepOptions {
  /** Blocks whose last known use is before it, ms since 1970, go. */
  readonly unusedSinceMs: number;
  /** Count, and remove nothing. */
  readonly dryRun: boolean;
  readonly signal?: AbortSignal | undefined;
  onProgress?(counts: Readonly<SweepCounts>): void;
}

/** Removes the blocks of an open backend that nobody has used for long. Stops early when the signal is aborted.
 * @throws KvferryError UNSUPPORTED where the backend has no scan or no remove. */
export async function sweep(backend: OffloadBackend, options: SweepOptions): Promise<SweepCounts> {
  const counts: SweepCounts = { seen: 0, unused: 0, unusedBytes: 0, removed: 0, failed: 0 };
  for await (const page of backend.scan()) {
    if (options.signal?.aborted) break;
    const old = page.filter(({ usedAtMs }) => usedAtMs < options.unusedSinceMs);
    counts.seen += page.length;
    counts.unused += old.length;
    for (const { bytes } of old) counts.unusedBytes += bytes;
    if (old.length > 0 && !options.dryRun) {
      const { outcomes } = await backend.remove(packKeys(old.map(({ key }) => key)));
      for (const outcome of outcomes) {
        if (outcome === Outcome.REMOVED) counts.removed++;
        else if (outcome === Outcome.FAILED) counts.failed++;
      }
    }
    options.onProgress?.(counts);
  }
  return counts;
}

import type { OffloadBackend } from "@kvferry/core";

export interface BlockStatistics {
  readonly blocks: number;
  readonly bytes: number;
  /** Ms since 1970; undefined where there is no block. */
  readonly oldestStoredAtMs: number | undefined;
  readonly newestStoredAtMs: number | undefined;
  /** Blocks by the time since their last known use. */
  readonly unused: { readonly hour: number; readonly day: number; readonly week: number; readonly longer: number };
}

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const WEEK_MS = 7 * DAY_MS;

/** Counts the blocks of an open backend by age.
 * @throws KvferryError UNSUPPORTED where the backend has no scan. */
export async function statisticsOf(backend: OffloadBackend, nowMs: number): Promise<BlockStatistics> {
  const unused = { hour: 0, day: 0, week: 0, longer: 0 };
  let blocks = 0;
  let total = 0;
  let oldest = Number.POSITIVE_INFINITY;
  let newest = Number.NEGATIVE_INFINITY;
  for await (const page of backend.scan()) {
    for (const { bytes, storedAtMs, usedAtMs } of page) {
      blocks++;
      total += bytes;
      oldest = Math.min(oldest, storedAtMs);
      newest = Math.max(newest, storedAtMs);
      unused[bucketOf(nowMs - usedAtMs)]++;
    }
  }
  const known = blocks > 0;
  return {
    blocks,
    bytes: total,
    oldestStoredAtMs: known ? oldest : undefined,
    newestStoredAtMs: known ? newest : undefined,
    unused,
  };
}

function bucketOf(ageMs: number): "hour" | "day" | "week" | "longer" {
  if (ageMs < HOUR_MS) return "hour";
  if (ageMs < DAY_MS) return "day";
  return ageMs < WEEK_MS ? "week" : "longer";
}

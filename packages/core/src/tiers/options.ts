import type { OffloadBackend } from "../backend.js";
import { KvferryError } from "../errors.js";
import type { PolicyFactory } from "../eviction/policy.js";
import type { MetricsSink } from "../layers/metrics.js";
import type { Region } from "../region.js";
import { TIERS_MAX } from "./block-map.js";
import type { EvictionSource } from "./evictions.js";

export interface TierOptions {
  /** Unique in the store; in metrics, logs and errors. */
  readonly name: string;
  /** Not opened yet; the store opens and closes it, and nobody else. */
  readonly backend: OffloadBackend;
  /**
   * How stores reach the tier. "through": within the call, from the engine's slots. "back": later, from another tier's copy; a store is acknowledged
   * before. "none": only by promotion and cascade. Default "through".
   */
  readonly write?: "through" | "back" | "none" | undefined;
  /** For a backend that makes no room by itself: the store keeps it within this bound by `policy`. Such a backend must be this store's alone. */
  readonly capacityBytes?: number | undefined;
  /** With `capacityBytes`: which blocks go first, a name or a policy of one's own. */
  readonly policy?: string | PolicyFactory | undefined;
  /** With `capacityBytes`: bytes that a block takes in the tier; default: the block's own. */
  readonly storedBytes?: ((blockBytes: number) => number) | undefined;
  /** Whether blocks that were loaded from slower tiers are put into this one; default: true for all but the last. */
  readonly promote?: boolean | undefined;
  /** Whether blocks that this tier evicts are put into the next slower one, if no slower tier has them; default: true for all but the last. */
  readonly cascade?: boolean | undefined;
  /** Bytes that wait to be copied into this tier in the background, at most; what comes beyond is dropped and counted. Default 256 MiB. */
  readonly pendingBytesMax?: number | undefined;
  /** For a backend that makes room by itself and lies within layers: itself, to hear of blocks before they go. */
  readonly evictions?: EvictionSource | undefined;
  /** Whether the tier cannot be asked now, where somebody else knows (a circuit breaker around the backend). The store looks up one key now and then
   * while it is true, so that a breaker hears of calls. */
  readonly isDown?: (() => boolean) | undefined;
}

export interface StagingOptions {
  /** Memory for blocks on their way between tiers, at most (but one block always fits); made at the first use. Default 64 MiB. */
  readonly bytesMax?: number | undefined;
  /** Where that memory comes from; default `createMemoryRegion`. */
  readonly createRegion?: ((rows: number, rowBytes: number) => Region) | undefined;
}

export interface TieredStoreOptions {
  /** From fast to slow, 1 to 7. At least one is written through. */
  readonly tiers: readonly TierOptions[];
  readonly staging?: StagingOptions | undefined;
  /** Where TIER_METRICS go. */
  readonly sink?: MetricsSink | undefined;
  /** Keys whose reason for being missed is remembered, a power of two; default 65,536. */
  readonly missReasonEntries?: number | undefined;
  /** Ms that `close` waits for copies under way and waiting; default 5,000. */
  readonly drainMs?: number | undefined;
}

const NUMBERS: readonly (keyof TierOptions)[] = ["capacityBytes", "pendingBytesMax"];

/** @throws KvferryError CONFIG_INVALID with `context.field`. */
export function checkOptions({ tiers, staging, drainMs }: TieredStoreOptions): void {
  if (tiers.length < 1 || tiers.length > TIERS_MAX) {
    throw invalid("tiers", `takes 1 to ${TIERS_MAX} tiers, got ${tiers.length}`);
  }
  const names = new Set<string>();
  for (const [i, tier] of tiers.entries()) {
    const at = `tiers[${i}]`;
    if (names.has(tier.name)) throw invalid(`${at}.name`, `"${tier.name}" is another tier's name, too`);
    names.add(tier.name);
    for (const field of NUMBERS) checkWhole(`${at}.${field}`, tier[field] as number | undefined);
    if (tier.capacityBytes !== undefined) continue;
    for (const field of ["policy", "storedBytes"] as const) {
      if (tier[field] !== undefined) throw invalid(`${at}.${field}`, "means nothing without capacityBytes");
    }
  }
  if (!tiers.some(({ write = "through" }) => write === "through")) {
    throw invalid("tiers", 'no tier has write: "through": nothing could be stored; give it to the fastest');
  }
  checkWhole("staging.bytesMax", staging?.bytesMax);
  checkWhole("drainMs", drainMs);
}

function checkWhole(field: string, value: number | undefined): void {
  if (value === undefined || (Number.isSafeInteger(value) && value >= 0)) return;
  throw invalid(field, `must be a whole number of 0 or more, got ${value}`);
}

function invalid(field: string, reason: string): KvferryError {
  return new KvferryError("CONFIG_INVALID", `tiered store: ${field} ${reason}`, {
    operation: "config",
    context: { field },
  });
}

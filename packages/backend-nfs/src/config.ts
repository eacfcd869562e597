import type { PosixConfig } from "@kvferry/backend-posix";
import { KvferryError } from "@kvferry/core";

/** Settings of the POSIX backend, and those of NFS. */
export interface NfsConfig extends PosixConfig {
  /** A block that another node has stored is found by every lookup that begins so many ms after. Default 1000. A folder of blocks costs one
   * round trip in that time, while it is asked for. */
  readonly negativeTtlMs?: number;
  /** Ms: more than a tick of the clock by which the server's file system stamps its folders. Default 20, for Linux servers; 1000 where
   * only whole seconds are seen. */
  readonly stampGranularityMs?: number;
}

export interface ResolvedNfsConfig {
  readonly posix: PosixConfig;
  readonly negativeTtlMs: number;
  readonly stampGranularityMs: number;
}

/** Fills in defaults.
 * @throws KvferryError CONFIG_INVALID with `context.field`. */
export function resolveConfig(config: NfsConfig): ResolvedNfsConfig {
  const { negativeTtlMs = 1000, stampGranularityMs = 20, ...posix } = config;
  checkMs("negativeTtlMs", negativeTtlMs, 10);
  checkMs("stampGranularityMs", stampGranularityMs, 1);
  // NFS has no O_TMPFILE: there is nothing to probe
  return { posix: { ...posix, publish: posix.publish ?? "rename" }, negativeTtlMs, stampGranularityMs };
}

const MS_MAX = 600_000;

function checkMs(field: string, value: number, min: number): void {
  if (Number.isFinite(value) && value >= min && value <= MS_MAX) return;
  throw new KvferryError("CONFIG_INVALID", `nfs backend: '${field}' must be ${min} to ${MS_MAX} ms, got ${value}`, {
    operation: "config",
    context: { field },
  });
}

import type { PosixConfig } from "@kvferry/backend-posix";
import { KvferryError } from "@kvferry/core";

/** Settings of the POSIX backend, of which `abandonable` is true by default, and those of NFS. */
export interface NfsConfig extends PosixConfig {
  /** A block that another node has stored is found by every lookup that begins so many ms after. Default 1000. While a folder of blocks is asked
   * for, it costs one round trip in half that time. The same on every node. */
  readonly negativeTtlMs?: number;
}

export interface ResolvedNfsConfig {
  readonly posix: PosixConfig & { readonly abandonable: boolean };
  readonly negativeTtlMs: number;
  /** How long a node waits, once to twice that, until it touches the folders in which it stored: more than a tick of a server's clock, which has 1 to 10 ms. */
  readonly touchDelayMs: number;
}

const NEGATIVE_TTL_MS_MIN = 400;

/** Fills in defaults.
 * @throws KvferryError CONFIG_INVALID with `context.field`. */
export function resolveConfig(config: NfsConfig): ResolvedNfsConfig {
  const { negativeTtlMs = 1000, ...posix } = config;
  checkMs("negativeTtlMs", negativeTtlMs, NEGATIVE_TTL_MS_MIN);
  const abandonable = posix.abandonable ?? posix.engine?.abandonable ?? true;
  return {
    // NFS has no O_TMPFILE: there is nothing to probe
    posix: { ...posix, abandonable, publish: posix.publish ?? "rename" },
    negativeTtlMs,
    touchDelayMs: Math.min(100, negativeTtlMs / 10), // the second touch comes before a half
  };
}

const MS_MAX = 600_000;

function checkMs(field: string, value: number, min: number): void {
  if (Number.isFinite(value) && value >= min && value <= MS_MAX) return;
  throw new KvferryError("CONFIG_INVALID", `nfs backend: '${field}' must be ${min} to ${MS_MAX} ms, got ${value}`, {
    operation: "config",
    context: { field },
  });
}

import { readFileSync } from "node:fs";
import { judgeMount, mountCounters, NfsBackend, parseMountStats, readNfsMount } from "@kvferry/backend-nfs";
import type { PosixConfig } from "@kvferry/backend-posix";
import type { Logger } from "@kvferry/core";
import { startPosixTier } from "./posix-tier.js";
import type { ResolvedNfsTier } from "./tier-config.js";
import type { TierRuntime } from "./tier-runtime.js";

/** A folder on NFS. What could be better with its mount is logged.
 * @throws KvferryError CONFIG_INVALID where the root is not on NFS. */
export async function startNfsTier(
  tier: ResolvedNfsTier,
  field: string,
  blocksMax: number,
  logger: Logger,
): Promise<TierRuntime> {
  const { negativeTtlMs, abandonable = true, ...folder } = tier;
  const own = negativeTtlMs === undefined ? {} : { negativeTtlMs };
  const mount = await readNfsMount(tier.root);
  for (const finding of judgeMount(mount, own)) {
    if (finding.severity !== "fine") logger.info({ tier: tier.name, mount: mount.mountPoint, ...finding }, "NFS mount");
  }
  const create = (config: PosixConfig): NfsBackend => new NfsBackend({ ...config, ...own });
  const runtime = await startPosixTier({ ...folder, abandonable, backend: "posix" }, field, blocksMax, create);
  return { ...runtime, backend: tier.backend, counters: () => countersOf(mount.mountPoint) };
}

/** All zero when the mount is gone. */
function countersOf(mountPoint: string): Readonly<Record<string, number>> {
  const all = parseMountStats(readFileSync("/proc/self/mountstats", "utf8"));
  const stats = all.findLast((each) => each.mountPoint === mountPoint);
  return stats === undefined ? {} : mountCounters(stats);
}

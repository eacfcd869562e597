import { PosixBackend, type PosixConfig, type RootStatus, storedNamespaces } from "@kvferry/backend-posix";
import { createFileEngine } from "@kvferry/native";
import { folderProblem, prepareFolder } from "./folder.js";
import type { ResolvedNfsTier, ResolvedPosixTier } from "./tier-config.js";
import type { TierRuntime } from "./tier-runtime.js";

/** @param blocksMax blocks that may be under way. */
export function startPosixTier(tier: ResolvedPosixTier, field: string, blocksMax: number): Promise<TierRuntime> {
  return startFolderTier(tier, field, blocksMax, (config) => new PosixBackend(config));
}

/** A tier of the POSIX backend, or of one that is built on it. */
export async function startFolderTier(
  tier: ResolvedPosixTier | ResolvedNfsTier,
  field: string,
  blocksMax: number,
  create: (config: PosixConfig) => PosixBackend,
): Promise<TierRuntime> {
  const { backend, name, write: _write, deadlineMs: _deadlineMs, threads, ...config } = tier;
  await prepareFolder(config.root, `${field}.root`);
  const engine = createFileEngine({ queueDepthMax: blocksMax, ...(threads === undefined ? {} : { threads }) });
  const backends = new Set<PosixBackend>();
  return {
    name,
    backend,
    place: config.root,
    capacityBytes: config.capacityBytes,
    createBackend(_namespace, { vllmFs }) {
      for (const each of backends) if (each.state === "closed") backends.delete(each);
      const created = create({ ...config, engine, ...(vllmFs === undefined ? {} : { vllmFs }) });
      backends.add(created);
      return created;
    },
    queue() {
      const { queuedLoads, queuedStores, running } = engine.stats();
      return { loads: queuedLoads, stores: queuedStores, running };
    },
    namespaces: () => storedNamespaces(config.root, config.layout),
    counters: () => ({}),
    gauges: () => (config.capacityBytes === undefined ? {} : rootGauges(backends)),
    problem: () => folderProblem(config.root),
    close: () => engine.close(),
  };
}

/** The root's capacity as this process sees it; what only the leader knows is 0 in others. */
function rootGauges(backends: Iterable<PosixBackend>): Readonly<Record<string, number>> {
  let status: RootStatus | undefined;
  for (const { state, rootStatus } of backends) if (state === "open") status ??= rootStatus;
  return {
    root_leads: status?.leads === true ? 1 : 0,
    root_counted_bytes: status?.count?.counted.bytes ?? 0,
    root_outstanding_bytes: status?.count?.outstanding.bytes ?? 0,
    root_evicted_blocks: status?.evictedBlocks ?? 0,
  };
}

import { PosixBackend, type PosixConfig, storedNamespaces } from "@kvferry/backend-posix";
import { createFileEngine } from "@kvferry/native";
import { folderProblem, prepareFolder } from "./folder.js";
import { rootGauges } from "./root-gauges.js";
import type { ResolvedPosixTier } from "./tier-config.js";
import type { TierRuntime } from "./tier-runtime.js";

/** @param blocksMax blocks that may be under way.
 * @param create for the backends that are this one on a file system of its own kind. */
export async function startPosixTier(
  tier: ResolvedPosixTier,
  field: string,
  blocksMax: number,
  create: (config: PosixConfig) => PosixBackend = (config) => new PosixBackend(config),
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

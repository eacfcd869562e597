import { PosixBackend, type PosixConfig, storedNamespaces } from "@kvferry/backend-posix";
import { createFileEngine } from "@kvferry/native";
import { folderProbe, prepareFolder } from "./folder.js";
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
  const { backend, name, write: _write, deadlineMs: _deadlineMs, threads, abandonable = false, ...config } = tier;
  const engine = createFileEngine({
    abandonable,
    queueDepthMax: blocksMax,
    ...(threads === undefined ? {} : { threads }),
  });
  const calls = abandonable ? engine.folders : undefined;
  try {
    await prepareFolder(config.root, `${field}.root`, calls);
  } catch (thrown) {
    await engine.close();
    throw thrown;
  }
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
    gauges: () => ({
      ...(abandonable ? { stuck_threads: engine.stats().stuckThreads } : {}),
      ...(config.capacityBytes === undefined ? {} : rootGauges(backends)),
    }),
    problem: folderProbe(config.root, calls),
    close: () => engine.close(),
  };
}

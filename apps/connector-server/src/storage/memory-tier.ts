import { availableParallelism } from "node:os";
import { HostArena, HostMemoryBackend } from "@kvferry/backend-host-memory";
import { createFileEngine } from "@kvferry/native";
import type { ResolvedMemoryTier } from "./tier-config.js";
import type { TierRuntime } from "./tier-runtime.js";

/** Threads that copy, at most: a few fill the memory bus. */
const THREADS_MAX = 8;

/** One arena for all engines of the node.
 * @param blocksMax blocks that may be under way. */
export async function startMemoryTier(tier: ResolvedMemoryTier, blocksMax: number): Promise<TierRuntime> {
  const { name, backend, capacityBytes, policy } = tier;
  const engine = createFileEngine({ threads: Math.min(THREADS_MAX, availableParallelism()), queueDepthMax: blocksMax });
  const arena = new HostArena({ capacityBytes, engine });
  return {
    name,
    backend,
    place: undefined,
    capacityBytes,
    createBackend: () => new HostMemoryBackend({ arena, policy }),
    namespaces: async () => [],
    queue() {
      const { queuedLoads, queuedStores, running } = engine.stats();
      return { loads: queuedLoads, stores: queuedStores, running };
    },
    counters: () => ({}),
    gauges: () => ({}),
    problem: async () => undefined,
    async close() {
      await arena.close();
      await engine.close();
    },
  };
}

import { createMemoryStorage, MemoryBackend } from "@kvferry/core";
import type { ResolvedMemoryTier } from "./tier-config.js";
import type { TierRuntime } from "./tier-runtime.js";

export async function startMemoryTier({ name, backend, capacityBytes }: ResolvedMemoryTier): Promise<TierRuntime> {
  const storage = createMemoryStorage();
  return {
    name,
    backend,
    place: undefined,
    capacityBytes,
    createBackend: () => new MemoryBackend({ capacityBytes, storage }),
    namespaces: async () => [],
    queue: () => undefined,
    counters: () => ({}),
    gauges: () => ({}),
    problem: async () => undefined,
    close: async () => storage.clear(),
  };
}

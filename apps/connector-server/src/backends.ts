import { PosixBackend } from "@kvferry/backend-posix";
import { createMemoryStorage, MemoryBackend, type OffloadBackend } from "@kvferry/core";
import { createFileEngine, type FileEngine } from "@kvferry/native";
import type { ResolvedTier } from "./config.js";
import type { BackendFactory } from "./namespaces.js";

/** The storage under all namespaces: what they share and how a namespace's backend is made. */
export interface TierRuntime {
  /** For metrics and status. */
  readonly name: string;
  readonly createBackend: BackendFactory;
  /** The I/O engine that the namespaces share, where there is one. */
  readonly engine: FileEngine | undefined;
  /** After all backends have been closed. */
  close(): Promise<void>;
}

/** Starts what the configured tier needs. */
export function startTier(tier: ResolvedTier): TierRuntime {
  return tier.backend === "memory" ? memoryTier(tier) : posixTier(tier);
}

function memoryTier({ capacityBytes }: Extract<ResolvedTier, { backend: "memory" }>): TierRuntime {
  const storage = createMemoryStorage(); // outlives the namespaces' backends, as a folder would
  return {
    name: "memory",
    createBackend: () => new MemoryBackend({ capacityBytes, storage }),
    engine: undefined,
    close: async () => storage.clear(),
  };
}

function posixTier(tier: Extract<ResolvedTier, { backend: "posix" }>): TierRuntime {
  const { backend: name, threads, deadlineMs: _deadlineMs, ...config } = tier;
  const engine = createFileEngine(threads === undefined ? {} : { threads });
  return {
    name,
    createBackend(_namespace, { vllmFs }): OffloadBackend {
      return new PosixBackend({ ...config, engine, ...(vllmFs === undefined ? {} : { vllmFs }) });
    },
    engine,
    close: () => engine.close(),
  };
}

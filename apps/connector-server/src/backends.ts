import { PosixBackend } from "@kvferry/backend-posix";
import { createMemoryStorage, MemoryBackend, type OffloadBackend } from "@kvferry/core";
import { createFileEngine, type FileEngine } from "@kvferry/native";
import type { ResolvedTier } from "./config.js";
import type { BackendFactory } from "./namespaces.js";

/** The storage under all namespaces: what they share and how a namespace's backend is made. */
export interface TierRuntime {
  /** For metrics and status. */
  readonly name: string;
  /** The bare backend, without layers. */
  readonly createBackend: BackendFactory;
  /** The I/O engine that the namespaces share, where there is one. */
  readonly engine: FileEngine | undefined;
  /** After all backends have been closed. */
  close(): Promise<void>;
}

/** Starts what the configured tier needs. `blocksMax`: blocks that may be under way. */
export function startTier(tier: ResolvedTier, blocksMax: number): TierRuntime {
  return tier.backend === "memory" ? memoryTier(tier) : posixTier(tier, blocksMax);
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

const QUEUE_DEPTH_MIN = 65_536;

function posixTier(tier: Extract<ResolvedTier, { backend: "posix" }>, blocksMax: number): TierRuntime {
  const { backend: name, threads, deadlineMs: _deadlineMs, ...config } = tier;
  const queueDepthMax = Math.max(QUEUE_DEPTH_MIN, blocksMax);
  const engine = createFileEngine({ queueDepthMax, ...(threads === undefined ? {} : { threads }) });
  return {
    name,
    createBackend(_namespace, { vllmFs }): OffloadBackend {
      return new PosixBackend({ ...config, engine, ...(vllmFs === undefined ? {} : { vllmFs }) });
    },
    engine,
    close: () => engine.close(),
  };
}

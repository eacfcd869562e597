import { HostMemoryBackend } from "@kvferry/backend-host-memory";
import {
  type CircuitState,
  type EvictionSource,
  type Logger,
  type MetricsSink,
  type Namespace,
  type OffloadBackend,
  TieredStore,
  type TierOptions,
} from "@kvferry/core";
import { createRegion } from "@kvferry/native";
import { withCallLayers, withTierLayers } from "../layers.js";
import type { BackendFactory, NamespaceShape } from "../namespaces.js";
import { startMemoryTier } from "./memory-tier.js";
import { startNfsTier } from "./nfs-tier.js";
import { startNvmeTier } from "./nvme-tier.js";
import { startParallelFsTier } from "./parallel-fs-tier.js";
import { startPosixTier } from "./posix-tier.js";
import { startS3Tier } from "./s3-tier.js";
import { startSftpTier } from "./sftp-tier.js";
import type { ResolvedTier } from "./tier-config.js";
import type { TierRuntime } from "./tier-runtime.js";

/** Ms that a check of a tier may take; a hung file system is not ready. */
const PROBE_TIMEOUT_MS = 2_000;
/** Blocks that a tier's queue takes, at least. */
const QUEUE_DEPTH_MIN = 65_536;
/** What metrics call several tiers together. */
const ALL_TIERS = "all";

export interface StorageLimits {
  /** Stores and loads of a namespace that are worked on at a time. */
  readonly operationsMax: number;
  readonly batchKeysMax: number;
}

/** A tier as one namespace sees it. */
export interface NamespaceTier {
  readonly name: string;
  readonly backend: OffloadBackend;
  circuit(): CircuitState;
  /** Blocks that it surely takes now without giving up others; undefined where that takes a count of what is there (`freeBytesOf`). */
  roomBlocks(): number | undefined;
}

/** What serves a namespace: one backend, and the tiers in it, fastest first. */
export interface NamespaceStorage {
  readonly backend: OffloadBackend;
  readonly tiers: readonly NamespaceTier[];
  /** Keys that were not found, by reason, since it was opened. */
  misses(): Readonly<Record<string, number>>;
  /** The first tier, if that is memory: direct mode needs it. */
  readonly memory: HostMemoryBackend | undefined;
  /** As of `TieredStore`. */
  readonly fills: Pick<TieredStore, "fill" | "tiersOf">;
}

/** Everything below the sessions: the tiers, and how they become one backend for a namespace. */
export interface Storage {
  readonly tiers: readonly TierRuntime[];
  createBackend(namespace: Namespace, shape: NamespaceShape, sink: MetricsSink): NamespaceStorage;
  /** Why it cannot be used now, or undefined when it can. */
  problem(): Promise<string | undefined>;
  /** After all backends have been closed. */
  close(): Promise<void>;
}

/** Starts what the tiers need.
 * @throws KvferryError with `context.field` of the tier that cannot be used. */
export async function startStorage(
  configs: readonly ResolvedTier[],
  limits: StorageLimits,
  logger: Logger,
): Promise<Storage> {
  const tiers: TierRuntime[] = [];
  const close = async (): Promise<void> => {
    for (const tier of [...tiers].reverse()) await tier.close();
  };
  try {
    for (const [i, config] of configs.entries()) tiers.push(await startTier(config, `tiers[${i}]`, limits, logger));
  } catch (thrown) {
    await close();
    throw thrown;
  }
  return {
    tiers,
    createBackend: (namespace, shape, sink) =>
      compose(
        tiers.map((tier, i) => partOf(tier, configs[i] as ResolvedTier, namespace, shape)),
        limits,
        sink,
      ),
    async problem() {
      const problems = await Promise.all(tiers.map(timelyProblem));
      return problems.find((problem) => problem !== undefined);
    },
    close,
  };
}

/** Storage over backends that somebody else makes: the tests' own. */
export function customStorage(createBackend: BackendFactory, config: ResolvedTier, limits: StorageLimits): Storage {
  return {
    tiers: [],
    createBackend: (namespace, shape, sink) =>
      compose([{ config, backend: createBackend(namespace, shape), roomBlocks: () => undefined }], limits, sink),
    problem: async () => undefined,
    close: async () => {},
  };
}

function startTier(
  config: ResolvedTier,
  field: string,
  { operationsMax, batchKeysMax }: StorageLimits,
  logger: Logger,
): Promise<TierRuntime> {
  const blocksMax = Math.max(QUEUE_DEPTH_MIN, operationsMax * batchKeysMax);
  switch (config.backend) {
    case "memory":
      return startMemoryTier(config, blocksMax);
    case "posix":
      return startPosixTier(config, field, blocksMax);
    case "nfs":
      return startNfsTier(config, field, blocksMax, logger);
    case "parallel-fs":
      return startParallelFsTier(config, field, blocksMax, logger);
    case "nvme":
      return startNvmeTier(config, logger);
    case "s3":
      return startS3Tier(config);
    case "sftp":
      return startSftpTier(config);
  }
}

interface TierPart {
  readonly config: ResolvedTier;
  readonly backend: OffloadBackend;
  roomBlocks(): number | undefined;
}

function partOf(tier: TierRuntime, config: ResolvedTier, namespace: Namespace, shape: NamespaceShape): TierPart {
  const backend = tier.createBackend(namespace, shape);
  const roomBlocks = (): number | undefined =>
    backend instanceof HostMemoryBackend ? backend.roomBlocks : tier.roomBlocks?.(shape.blockBytes);
  return { config, backend, roomBlocks };
}

/** Every tier stands behind its own breaker, so that one that fails is skipped. */
function compose(parts: readonly TierPart[], { operationsMax }: StorageLimits, sink: MetricsSink): NamespaceStorage {
  const several = parts.length > 1;
  const tiers = parts.map(({ config: { name, deadlineMs }, backend, roomBlocks }) => ({
    name,
    roomBlocks,
    ...withTierLayers(backend, { deadlineMs, name, ...(several ? { sink } : {}) }),
  }));
  const name = several ? ALL_TIERS : (tiers[0] as NamespaceTier).name;
  const store = new TieredStore({
    tiers: tiers.map((tier, i) => tierOptions(tier, parts[i] as TierPart)),
    staging: { createRegion: (rows, rowBytes) => createRegion({ rows, rowBytes }) },
    sink,
  });
  return {
    backend: withCallLayers(store, { operationsMax, name, sink }),
    tiers,
    misses: () => (store.state === "open" ? store.missReasons().counts() : {}),
    memory: parts[0]?.backend instanceof HostMemoryBackend ? parts[0].backend : undefined,
    fills: store,
  };
}

function tierOptions({ name, backend, circuit }: NamespaceTier, { config, backend: bare }: TierPart): TierOptions {
  const evictions = "onEvicting" in bare ? (bare as OffloadBackend & EvictionSource) : undefined;
  return { name, backend, write: config.write, evictions, isDown: () => circuit() !== "closed" };
}

async function timelyProblem(tier: TierRuntime): Promise<string | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const hung = new Promise<string>((resolve) => {
    timer = setTimeout(() => resolve(`${tier.place ?? tier.name} does not answer`), PROBE_TIMEOUT_MS);
  });
  const problem = await Promise.race([tier.problem(), hung]);
  clearTimeout(timer);
  return problem;
}

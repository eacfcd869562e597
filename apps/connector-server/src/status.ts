import type { CircuitState, OffloadBackend, Usage } from "@kvferry/core";
import type { HttpAddress, ResolvedConfig } from "./config.js";
import type { DirectEngineStatus, DirectEngines } from "./direct/engines.js";
import type { CounterStatus, ServerMetrics } from "./metrics.js";
import type { NamespacePool, OpenNamespace } from "./namespaces.js";
import type { Session, SessionStatus } from "./session.js";
import type { NamespaceTier, Storage } from "./storage/storage.js";
import type { TierQueue, TierRuntime } from "./storage/tier-runtime.js";
import { version } from "./version.js";
import type { WarmStatus } from "./warm/warmer.js";

export interface NamespaceStatus {
  readonly digest: string;
  readonly model: string;
  readonly tenant: string;
  readonly keyBytes: number;
  readonly blockBytes: number;
  readonly sessions: number;
  /** Fastest first. */
  readonly tiers: readonly NamespaceTierStatus[];
  /** Blocks that lookups and loads did not find, by reason, since the namespace was opened. */
  readonly misses: Readonly<Record<string, number>>;
}

export interface NamespaceTierStatus {
  readonly name: string;
  /** Whether the storage is asked: closed is good, open is not. */
  readonly circuit: CircuitState;
  /** undefined where the backend does not count, or is not open yet. */
  readonly usage: Usage | undefined;
}

export interface TierStatus {
  readonly name: string;
  readonly backend: string;
  /** Folder, device or bucket; undefined for memory. */
  readonly place: string | undefined;
  readonly capacityBytes: number | undefined;
  readonly queue: TierQueue | undefined;
  /** What the tier alone counts or measures. */
  readonly facts: Readonly<Record<string, number>>;
}

/** What `GET /v1/status` answers. */
export interface ServerStatus {
  readonly version: string;
  readonly pid: number;
  readonly startedAtMs: number;
  readonly uptimeSeconds: number;
  readonly state: "serving" | "draining";
  readonly socket: string;
  readonly http: HttpAddress | undefined;
  readonly sessions: readonly SessionStatus[];
  readonly namespaces: readonly NamespaceStatus[];
  /** Fastest first. */
  readonly tiers: readonly TierStatus[];
  readonly counters: readonly CounterStatus[];
  /** Engines in direct mode. */
  readonly direct: readonly DirectEngineStatus[];
  /** The last warming, or the one under way; left out if there was none. */
  readonly warm?: WarmStatus | undefined;
}

export interface StatusParts {
  readonly startedAtMs: number;
  readonly config: ResolvedConfig;
  readonly http: HttpAddress | undefined;
  readonly draining: boolean;
  readonly sessions: Iterable<Session>;
  readonly storage: Storage;
  readonly namespaces: NamespacePool;
  readonly engines: DirectEngines;
  readonly warm: WarmStatus | undefined;
  readonly metrics: ServerMetrics;
}

export async function statusOf(parts: StatusParts): Promise<ServerStatus> {
  return {
    version,
    pid: process.pid,
    startedAtMs: parts.startedAtMs,
    uptimeSeconds: Math.round((Date.now() - parts.startedAtMs) / 1000),
    state: parts.draining ? "draining" : "serving",
    socket: parts.config.socket,
    http: parts.http,
    sessions: [...parts.sessions].map((session) => session.status),
    namespaces: await Promise.all(parts.namespaces.list().map(namespaceStatus)),
    tiers: parts.storage.tiers.map(tierStatus),
    counters: parts.metrics.status(),
    direct: parts.engines.status,
    ...(parts.warm === undefined ? {} : { warm: parts.warm }),
  };
}

/** What all open namespaces together take of a tier. */
export async function tierUsage(namespaces: NamespacePool, tier: string): Promise<{ bytes: number; blocks: number }> {
  const backends = namespaces.list().flatMap(({ storage }) => storage.tiers.filter(({ name }) => name === tier));
  const sum = { bytes: 0, blocks: 0 };
  for (const usage of await Promise.all(backends.map(({ backend }) => usageOrNothing(backend)))) {
    sum.bytes += usage?.bytes ?? 0;
    sum.blocks += usage?.blocks ?? 0;
  }
  return sum;
}

async function namespaceStatus({ namespace, shape, storage, sessions }: OpenNamespace): Promise<NamespaceStatus> {
  return {
    digest: namespace.digestHex,
    model: namespace.fields.model,
    tenant: namespace.fields.tenant,
    keyBytes: shape.keyBytes,
    blockBytes: shape.blockBytes,
    sessions,
    tiers: await Promise.all(storage.tiers.map(namespaceTierStatus)),
    misses: storage.misses(),
  };
}

async function namespaceTierStatus({ name, backend, circuit }: NamespaceTier): Promise<NamespaceTierStatus> {
  return { name, circuit: circuit(), usage: await usageOrNothing(backend) };
}

function tierStatus(tier: TierRuntime): TierStatus {
  const { name, backend, place, capacityBytes } = tier;
  return { name, backend, place, capacityBytes, queue: tier.queue(), facts: { ...tier.counters(), ...tier.gauges() } };
}

async function usageOrNothing(backend: OffloadBackend): Promise<Usage | undefined> {
  if (backend.state !== "open" || !backend.manifest.capabilities.usage) return undefined;
  return backend.usage().catch(() => undefined); // closing meanwhile, or its storage is away
}

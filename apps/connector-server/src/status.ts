import type { CircuitState, OffloadBackend, Usage } from "@kvferry/core";
import type { TierRuntime } from "./backends.js";
import type { HttpAddress, ResolvedConfig } from "./config.js";
import type { CounterStatus, ServerMetrics } from "./metrics.js";
import type { NamespacePool, OpenNamespace } from "./namespaces.js";
import type { Session, SessionStatus } from "./session.js";
import { version } from "./version.js";

export interface NamespaceStatus {
  readonly digest: string;
  readonly model: string;
  readonly tenant: string;
  readonly keyBytes: number;
  readonly blockBytes: number;
  readonly sessions: number;
  /** Whether the storage is asked: closed is good, open is not. */
  readonly circuit: CircuitState;
  /** undefined where the backend does not count, or is not open yet. */
  readonly usage: Usage | undefined;
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
  readonly tiers: readonly {
    readonly backend: string;
    readonly root: string | undefined;
    readonly capacityBytes: number | undefined;
    readonly queue: { readonly loads: number; readonly stores: number; readonly running: number } | undefined;
  }[];
  readonly counters: readonly CounterStatus[];
}

export interface StatusParts {
  readonly startedAtMs: number;
  readonly config: ResolvedConfig;
  readonly http: HttpAddress | undefined;
  readonly draining: boolean;
  readonly sessions: Iterable<Session>;
  readonly tier: TierRuntime;
  readonly namespaces: NamespacePool;
  readonly metrics: ServerMetrics;
}

export async function statusOf(parts: StatusParts): Promise<ServerStatus> {
  const { tier } = parts.config;
  const stats = parts.tier.engine?.stats();
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
    tiers: [
      {
        backend: parts.tier.name,
        root: tier.backend === "posix" ? tier.root : undefined,
        capacityBytes: tier.capacityBytes,
        queue: stats && { loads: stats.queuedLoads, stores: stats.queuedStores, running: stats.running },
      },
    ],
    counters: parts.metrics.status(),
  };
}

/** Of all open namespaces together. */
export async function usageOf(namespaces: NamespacePool): Promise<Usage> {
  const all = await Promise.all(namespaces.list().map(({ backend }) => usageOrNothing(backend)));
  let sum: Usage = { bytes: 0, blocks: 0, capacityBytes: undefined };
  for (const usage of all) {
    if (usage === undefined) continue;
    const capacityBytes =
      usage.capacityBytes === undefined ? sum.capacityBytes : (sum.capacityBytes ?? 0) + usage.capacityBytes;
    sum = { bytes: sum.bytes + usage.bytes, blocks: sum.blocks + usage.blocks, capacityBytes };
  }
  return sum;
}

async function namespaceStatus({
  namespace,
  shape,
  backend,
  sessions,
  circuit,
}: OpenNamespace): Promise<NamespaceStatus> {
  return {
    digest: namespace.digestHex,
    model: namespace.fields.model,
    tenant: namespace.fields.tenant,
    keyBytes: shape.keyBytes,
    blockBytes: shape.blockBytes,
    sessions,
    circuit: circuit(),
    usage: await usageOrNothing(backend),
  };
}

async function usageOrNothing(backend: OffloadBackend): Promise<Usage | undefined> {
  if (backend.state !== "open" || !backend.manifest.capabilities.usage) return undefined;
  return backend.usage().catch(() => undefined); // closing meanwhile, or its storage is away
}

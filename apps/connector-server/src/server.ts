import { access, constants, mkdir } from "node:fs/promises";
import { KvferryError, type Logger, silentLogger, toKvferryError } from "@kvferry/core";
import { type ConnectionHandlers, listenUnix, type UnixConnection, type UnixServer } from "@kvferry/native";
import { Registry } from "prom-client";
import { startTier, type TierRuntime } from "./backends.js";
import {
  type HttpAddress,
  type ResolvedConfig,
  type ResolvedTier,
  resolveConfig,
  type ServerConfig,
} from "./config.js";
import { type HttpServer, startHttp } from "./http.js";
import { backendMetrics, withLayers } from "./layers.js";
import { Throttle } from "./log.js";
import { ServerMetrics } from "./metrics.js";
import { type BackendFactory, NamespacePool } from "./namespaces.js";
import { Session, type SessionContext } from "./session.js";
import { prepareSocketFolder } from "./socket-folder.js";
import { type ServerStatus, statusOf, usageOf } from "./status.js";
import { version } from "./version.js";

export interface ServerOptions {
  readonly logger?: Logger;
  /** Instead of the configured tier: makes the backend of each namespace. */
  readonly createBackend?: BackendFactory;
}

export interface RunningServer {
  /** Path of the Unix socket. */
  readonly socket: string;
  /** Where metrics, health and status are; undefined if off. */
  readonly http: HttpAddress | undefined;
  readonly config: ResolvedConfig;
  status(): Promise<ServerStatus>;
  /** Prometheus text. */
  metrics(): Promise<string>;
  /** Drains (at most `drainTimeoutMs`), then releases everything. False if I/O was still under way when the time was over: then only the
   * end of the process ends it. May be called twice. */
  close(): Promise<boolean>;
}

/** Ms that a check of the storage may take; a hung file system is not ready. */
const PROBE_TIMEOUT_MS = 2_000;
/** Ms after the drain's end that aborted I/O may take. */
const ABORT_GRACE_MS = 1_000;

/** Starts the server: listens for engines, and serves metrics, health and status.
 * @throws KvferryError CONFIG_INVALID; UNAVAILABLE if socket or port are taken; PERMISSION … for the storage. */
export async function startServer(config: ServerConfig = {}, options: ServerOptions = {}): Promise<RunningServer> {
  const server = new Server(resolveConfig(config), options);
  await server.start();
  return server;
}

class Server implements RunningServer {
  readonly config: ResolvedConfig;
  readonly #logger: Logger;
  readonly #startedAtMs: number = Date.now();
  readonly #sessions: Set<Session> = new Set();
  readonly #createBackend: BackendFactory | undefined;
  #tier: TierRuntime | undefined;
  #namespaces: NamespacePool | undefined;
  #metrics: ServerMetrics | undefined;
  #unix: UnixServer | undefined;
  #http: HttpServer | undefined;
  #closing: Promise<boolean> | undefined;

  constructor(config: ResolvedConfig, { logger = silentLogger, createBackend }: ServerOptions) {
    this.config = config;
    this.#logger = logger;
    this.#createBackend = createBackend;
  }

  get socket(): string {
    return this.config.socket;
  }

  get http(): HttpAddress | undefined {
    return this.#http?.address;
  }

  async start(): Promise<void> {
    const { tier, limits, namespaceIdleMs } = this.config;
    if (this.#createBackend === undefined) await prepareStorage(tier);
    await prepareSocketFolder(this.socket, this.config.socketIsDefault);
    this.#tier =
      this.#createBackend === undefined
        ? startTier(tier, limits.operationsMax * limits.batchKeysMax)
        : { name: "custom", createBackend: this.#createBackend, engine: undefined, close: async () => {} };
    try {
      const { createBackend } = this.#tier;
      const registry = new Registry();
      const createSink = backendMetrics(registry);
      this.#namespaces = new NamespacePool({
        createBackend: (namespace, shape) =>
          withLayers(createBackend(namespace, shape), { operationsMax: limits.operationsMax, sink: createSink() }),
        logger: this.#logger,
        idleMs: namespaceIdleMs,
        namespacesMax: limits.namespacesMax,
      });
      this.#metrics = this.#createMetrics(registry, this.#tier, this.#namespaces);
      this.#listen(this.#namespaces, this.#metrics);
      if (this.config.http !== undefined) await this.#serveHttp(this.config.http, this.#metrics);
    } catch (thrown) {
      this.#unix?.close();
      await this.#tier.close();
      throw thrown;
    }
    this.#logger.info(
      { version, pid: process.pid, socket: this.socket, http: this.http, tier: this.#tier.name },
      "ready for engines",
    );
  }

  async status(): Promise<ServerStatus> {
    return statusOf({
      startedAtMs: this.#startedAtMs,
      config: this.config,
      http: this.http,
      draining: this.#closing !== undefined,
      sessions: this.#sessions,
      tier: this.#opened(this.#tier),
      namespaces: this.#opened(this.#namespaces),
      metrics: this.#opened(this.#metrics),
    });
  }

  metrics(): Promise<string> {
    return this.#opened(this.#metrics).registry.metrics();
  }

  close(): Promise<boolean> {
    this.#closing ??= this.#runClose();
    return this.#closing;
  }

  async #runClose(): Promise<boolean> {
    this.#logger.info({ sessions: this.#sessions.size }, "draining");
    this.#unix?.close();
    for (const session of this.#sessions) session.drain();
    let ended = await this.#sessionsEnd(this.config.drainTimeoutMs);
    if (!ended) {
      this.#logger.warn({ sessions: this.#sessions.size }, "requests did not finish in time; aborting them");
      for (const session of this.#sessions) session.abort();
      ended = await this.#sessionsEnd(ABORT_GRACE_MS);
    }
    await this.#http?.close();
    if (!ended) {
      this.#logger.error({ sessions: this.#sessions.size }, "I/O is still under way; the end of the process ends it");
      return false;
    }
    await this.#namespaces?.close();
    await this.#tier?.close();
    this.#logger.info({}, "ended");
    return true;
  }

  /** Whether all sessions ended in time. */
  async #sessionsEnd(timeoutMs: number): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, timeoutMs);
    });
    await Promise.race([Promise.all([...this.#sessions].map((session) => session.closed)), timeout]);
    clearTimeout(timer);
    return this.#sessions.size === 0;
  }

  #createMetrics(registry: Registry, tier: TierRuntime, namespaces: NamespacePool): ServerMetrics {
    return new ServerMetrics(registry, {
      tier: tier.name,
      connections: () => this.#sessions.size,
      unanswered: () => [...this.#sessions].reduce((sum, session) => sum + session.status.requests, 0),
      namespaces: () => namespaces.list().length,
      queue() {
        const stats = tier.engine?.stats();
        return stats && { loads: stats.queuedLoads, stores: stats.queuedStores, running: stats.running };
      },
      circuits: () => namespaces.list().map(({ circuit }) => circuit()),
      usage: () => usageOf(namespaces),
    });
  }

  #listen(namespaces: NamespacePool, metrics: ServerMetrics): void {
    const { limits } = this.config;
    const context: SessionContext = {
      identity: { name: "kvferry", version, pid: process.pid },
      limits,
      deadlineMs: this.config.tier.deadlineMs,
      namespaces,
      metrics,
      logger: this.#logger,
      warnings: new Throttle(),
      uid: process.getuid?.() ?? 0,
    };
    try {
      this.#unix = listenUnix(this.socket, {
        mode: 0o600,
        sendBufferBytesMax: limits.sendBufferBytesMax,
        onConnection: (connection) => this.#connected(connection, context),
        onError: (error) => this.#logger.error({ error: error.message }, "accepting a connection failed"),
      });
    } catch (thrown) {
      throw listenError(this.socket, thrown);
    }
  }

  #connected(connection: UnixConnection, context: SessionContext): ConnectionHandlers {
    const session = new Session(connection, context);
    this.#sessions.add(session);
    context.metrics.connected();
    void session.closed.then(() => this.#sessions.delete(session));
    if (this.#closing !== undefined) session.drain();
    else if (this.#sessions.size > context.limits.connectionsMax)
      session.refuse(`${context.limits.connectionsMax} connections are open`);
    return session.handlers;
  }

  async #serveHttp(address: HttpAddress, metrics: ServerMetrics): Promise<void> {
    const { tier } = this.config;
    this.#http = await startHttp(address, {
      registry: metrics.registry,
      status: () => this.status(),
      unready: async () => {
        if (this.#closing !== undefined) return "draining";
        return this.#createBackend === undefined ? storageProblem(tier) : undefined;
      },
    });
  }

  #opened<T>(part: T | undefined): T {
    if (part === undefined) throw new KvferryError("NOT_OPEN", "the server has not been started");
    return part;
  }
}

async function prepareStorage(tier: ResolvedTier): Promise<void> {
  if (tier.backend !== "posix") return;
  try {
    await mkdir(tier.root, { recursive: true, mode: 0o700 });
    await access(tier.root, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (thrown) {
    const error = toKvferryError(thrown, "open");
    throw new KvferryError(error.code, `the storage folder ${tier.root} cannot be used: ${error.message}`, {
      operation: "open",
      context: { field: "tiers[0].root", path: tier.root },
      cause: thrown,
    });
  }
}

/** Why the storage cannot be used, or undefined when it can. */
async function storageProblem(tier: ResolvedTier): Promise<string | undefined> {
  if (tier.backend !== "posix") return undefined;
  let timer: NodeJS.Timeout | undefined;
  const hung = new Promise<string>((resolve) => {
    timer = setTimeout(() => resolve(`${tier.root} does not answer`), PROBE_TIMEOUT_MS);
  });
  const probe = access(tier.root, constants.W_OK | constants.X_OK).then(
    () => undefined,
    (error: Error) => `${tier.root} cannot be used: ${error.message}`,
  );
  const problem = await Promise.race([probe, hung]);
  clearTimeout(timer);
  return problem;
}

function listenError(socket: string, thrown: unknown): KvferryError {
  const { code, message } = toKvferryError(thrown, "listen");
  const details = { operation: "listen", context: { field: "socket", path: socket }, cause: thrown };
  if (code === "BUSY") {
    return new KvferryError(
      "UNAVAILABLE",
      `another kvferry serves ${socket}; stop it, or give another socket with --socket`,
      details,
    );
  }
  return new KvferryError(code, `cannot listen at ${socket}: ${message}`, details);
}

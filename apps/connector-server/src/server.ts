import { KvferryError, type Logger, silentLogger, toKvferryError } from "@kvferry/core";
import { type ConnectionHandlers, listenUnix, type UnixConnection, type UnixServer } from "@kvferry/native";
import { Registry } from "prom-client";
import { type HttpAddress, type ResolvedConfig, resolveConfig, type ServerConfig } from "./config.js";
import { DirectEngines, HOLD_GRACE_MS } from "./direct/engines.js";
import { registerDirectMetrics } from "./direct/metrics.js";
import { type HttpServer, startHttp } from "./http.js";
import { backendMetrics } from "./layers.js";
import { Throttle } from "./log.js";
import { ServerMetrics } from "./metrics.js";
import { type BackendFactory, NamespacePool } from "./namespaces.js";
import { Session, type SessionContext } from "./session.js";
import { prepareSocketFolder } from "./socket-folder.js";
import { type ServerStatus, statusOf, tierUsage } from "./status.js";
import { customStorage, type Storage, startStorage } from "./storage/storage.js";
import type { ResolvedTier } from "./storage/tier-config.js";
import { version } from "./version.js";
import { Warmer } from "./warm/warmer.js";

export interface ServerOptions {
  readonly logger?: Logger;
  /** Instead of the configured tiers: makes the backend of each namespace. */
  readonly createBackend?: BackendFactory;
  /** Ms that what an engine in direct mode holds outlives its connections; default 60,000, which engines rely on. */
  readonly holdGraceMs?: number;
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

/** Ms after the drain's end that aborted I/O may take. */
const ABORT_GRACE_MS = 1_000;
/** Ms after that for storage to be let go. */
const RELEASE_MS = 10_000;

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
  readonly #holdGraceMs: number;
  #storage: Storage | undefined;
  #namespaces: NamespacePool | undefined;
  #engines: DirectEngines | undefined;
  #warmer: Warmer | undefined;
  #metrics: ServerMetrics | undefined;
  #unix: UnixServer | undefined;
  #http: HttpServer | undefined;
  #closing: Promise<boolean> | undefined;

  constructor(
    config: ResolvedConfig,
    { logger = silentLogger, createBackend, holdGraceMs = HOLD_GRACE_MS }: ServerOptions,
  ) {
    this.config = config;
    this.#holdGraceMs = holdGraceMs;
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
    const { tiers, limits, namespaceIdleMs } = this.config;
    const first = tiers[0] as ResolvedTier;
    const storage =
      this.#createBackend === undefined
        ? await startStorage(tiers, limits, this.#logger)
        : customStorage(this.#createBackend, first, limits);
    this.#storage = storage;
    try {
      await prepareSocketFolder(this.socket, this.config.socketIsDefault);
      const registry = new Registry();
      const createSink = backendMetrics(registry);
      this.#namespaces = new NamespacePool({
        createStorage: (namespace, shape) => storage.createBackend(namespace, shape, createSink()),
        logger: this.#logger,
        idleMs: namespaceIdleMs,
        namespacesMax: limits.namespacesMax,
      });
      this.#warmer = new Warmer({ storage, namespaces: this.#namespaces, logger: this.#logger });
      this.#metrics = this.#createMetrics(registry, storage, this.#namespaces);
      this.#engines = this.#createEngines(this.#namespaces);
      registerDirectMetrics(registry, this.#engines);
      this.#listen(this.#namespaces, this.#engines, this.#metrics, this.#warmer);
      if (this.config.http !== undefined) await this.#serveHttp(this.config.http, this.#metrics);
    } catch (thrown) {
      this.#unix?.close();
      await storage.close();
      throw thrown;
    }
    this.#logger.info(
      { version, pid: process.pid, socket: this.socket, http: this.http, tiers: tiers.map(({ name }) => name) },
      "ready for engines",
    );
    this.#warmAtStart(this.#warmer);
  }

  /** In the background: engines need not wait for it. */
  #warmAtStart(warmer: Warmer): void {
    const { warm } = this.config;
    if (warm === undefined) return;
    warmer.run("start", { ...warm, namespace: "" }).catch((thrown: unknown) => {
      this.#logger.warn({ error: String(thrown) }, "could not warm the tiers");
    });
  }

  async status(): Promise<ServerStatus> {
    return statusOf({
      startedAtMs: this.#startedAtMs,
      config: this.config,
      http: this.http,
      draining: this.#closing !== undefined,
      sessions: this.#sessions,
      storage: this.#opened(this.#storage),
      namespaces: this.#opened(this.#namespaces),
      engines: this.#opened(this.#engines),
      warm: this.#warmer?.status,
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
    const warmed = this.#warmer?.stop();
    this.#engines?.drain();
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
    const released = await endsWithin(RELEASE_MS, this.#release(warmed));
    if (released) this.#logger.info({}, "ended");
    else this.#logger.error({}, "storage that does not answer is left as it is; the end of the process ends it");
    return released;
  }

  async #release(warmed: Promise<void> | undefined): Promise<void> {
    await warmed;
    await this.#namespaces?.close();
    await this.#engines?.close();
    await this.#storage?.close();
  }

  /** Whether all sessions ended in time. */
  async #sessionsEnd(timeoutMs: number): Promise<boolean> {
    await endsWithin(timeoutMs, Promise.all([...this.#sessions].map((session) => session.closed)));
    return this.#sessions.size === 0;
  }

  #createMetrics(registry: Registry, storage: Storage, namespaces: NamespacePool): ServerMetrics {
    return new ServerMetrics(registry, {
      connections: () => this.#sessions.size,
      unanswered: () => [...this.#sessions].reduce((sum, session) => sum + session.status.requests, 0),
      namespaces: () => namespaces.list().length,
      tiers: storage.tiers,
      circuits: () => namespaces.list().flatMap((each) => each.storage.tiers.map(({ circuit }) => circuit())),
      usage: (tier) => tierUsage(namespaces, tier),
    });
  }

  #createEngines(namespaces: NamespacePool): DirectEngines {
    const { direct, limits } = this.config;
    return new DirectEngines({
      namespaces,
      stagingBytes: direct.stagingBytes,
      deadlineMs: this.#deadlineMs,
      keyBytesMax: limits.requestBytesMax,
      graceMs: this.#holdGraceMs,
      logger: this.#logger,
    });
  }

  /** Ms that a request may take. */
  get #deadlineMs(): number {
    return Math.max(...this.config.tiers.map((tier) => tier.deadlineMs));
  }

  #listen(namespaces: NamespacePool, engines: DirectEngines, metrics: ServerMetrics, warmer: Warmer): void {
    const { limits } = this.config;
    const context: SessionContext = {
      identity: { name: "kvferry", version, pid: process.pid },
      limits,
      deadlineMs: this.#deadlineMs,
      namespaces,
      engines,
      warmer,
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
    this.#http = await startHttp(address, {
      registry: metrics.registry,
      status: () => this.status(),
      unready: async () => {
        if (this.#closing !== undefined) return "draining";
        return this.#opened(this.#storage).problem();
      },
    });
  }

  #opened<T>(part: T | undefined): T {
    if (part === undefined) throw new KvferryError("NOT_OPEN", "the server has not been started");
    return part;
  }
}

/** Whether it ended in time. Rejects as it does. */
async function endsWithin(timeoutMs: number, ending: Promise<unknown>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), timeoutMs);
  });
  try {
    return await Promise.race([ending.then(() => true), timeout]);
  } finally {
    clearTimeout(timer);
  }
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

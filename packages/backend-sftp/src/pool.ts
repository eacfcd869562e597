import { setMaxListeners } from "node:events";
import { type Clock, KvferryError, type Logger, untilAborted } from "@kvferry/core";
import type { ResolvedSftpConfig } from "./config.js";
import { connectSftp, type SftpConnection } from "./connection.js";
import { PacketPool } from "./packets.js";
import type { SftpSession } from "./session.js";

/** More than any request has besides its data. */
const PACKET_OVERHEAD = 512;

/** A bounded number of connections, made as they are needed. One that was lost is made anew by the next call; after one that could not be made
 * there is a pause, longer each time, in which calls fail at once with what was wrong. */
export class ConnectionPool {
  readonly #config: ResolvedSftpConfig;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #packets: PacketPool;
  readonly #connections: Set<SftpConnection> = new Set();
  readonly #connecting: Set<Promise<SftpSession>> = new Set();
  #failures = 0;
  #failure: KvferryError | undefined;
  #retryAtMs = 0;
  readonly #closing: AbortController = new AbortController();
  #change: Promise<void> | undefined;
  #announceChange: () => void = () => {};

  constructor(config: ResolvedSftpConfig, clock: Clock, logger: Logger) {
    this.#config = config;
    this.#clock = clock;
    this.#logger = logger;
    setMaxListeners(0, this.#closing.signal); // one a connection
    this.#packets = new PacketPool(config.requestBytesMax + PACKET_OVERHEAD, 2 * config.requestsPerFileMax);
  }

  /** Connections that stand. */
  get size(): number {
    return this.#connections.size;
  }

  /** Requests that were sent and are not answered. */
  get requests(): number {
    let requests = 0;
    for (const { session } of this.#connections) requests += session.requests;
    return requests;
  }

  /** A session for a few short requests; waits where none stands yet.
   * @throws KvferryError, or the signal's reason. */
  async session(signal?: AbortSignal): Promise<SftpSession> {
    signal?.throwIfAborted();
    // where one of them hangs, its requests pile up, and the others are taken
    return this.#least((session) => session.requests) ?? untilAborted(this.#first(), signal);
  }

  /** Moves a file over the session with the least to do; more connections are made while those that stand are busy.
   * @throws KvferryError, the signal's reason, or what `move` throws. */
  async moving<T>(signal: AbortSignal | undefined, move: (session: SftpSession) => Promise<T>): Promise<T> {
    const { filesPerConnectionMax } = this.#config;
    let session = await this.session(signal);
    for (;;) {
      session = this.#least(({ files }) => files) ?? (await this.session(signal));
      if (session.files > 0 && this.#mayGrow()) void this.#connect().catch(() => {});
      if (session.files < filesPerConnectionMax || this.#connecting.size === 0) break;
      await untilAborted(this.#nextChange(), signal);
    }
    session.files++;
    try {
      return await move(session);
    } finally {
      session.files--;
      this.#changed();
    }
  }

  close(): void {
    this.#closing.abort();
  }

  #least(work: (session: SftpSession) => number): SftpSession | undefined {
    let least: SftpSession | undefined;
    for (const { session } of this.#connections) {
      if (least === undefined || work(session) < work(least)) least = session;
    }
    return least;
  }

  /** Ends when a file has been moved, or when it is known what became of a connection. */
  #nextChange(): Promise<void> {
    this.#change ??= new Promise((resolve) => {
      this.#announceChange = resolve;
    });
    return this.#change;
  }

  #changed(): void {
    this.#change = undefined;
    this.#announceChange();
  }

  #mayGrow(): boolean {
    const { size } = this.#connections;
    return size + this.#connecting.size < this.#config.connectionsMax && this.#clock.monotonicMs() >= this.#retryAtMs;
  }

  #first(): Promise<SftpSession> {
    if (this.#closing.signal.aborted) {
      return Promise.reject(new KvferryError("CLOSED", "sftp: the backend is being closed"));
    }
    const [connecting] = this.#connecting;
    if (connecting !== undefined) return connecting;
    if (this.#failure !== undefined && this.#clock.monotonicMs() < this.#retryAtMs)
      return Promise.reject(this.#failure);
    return this.#connect();
  }

  #connect(): Promise<SftpSession> {
    const connecting = this.#connectOne().finally(() => {
      this.#connecting.delete(connecting);
      this.#changed();
    });
    this.#connecting.add(connecting);
    return connecting;
  }

  async #connectOne(): Promise<SftpSession> {
    try {
      const connection: SftpConnection = await connectSftp(
        this.#config,
        this.#packets,
        (err) => this.#lost(connection, err),
        this.#closing.signal,
      );
      this.#connections.add(connection);
      this.#failures = 0;
      this.#failure = undefined;
      return connection.session;
    } catch (thrown) {
      this.#failed(thrown as KvferryError);
      throw thrown;
    }
  }

  #lost(connection: SftpConnection, err: KvferryError): void {
    const { host, port } = this.#config;
    this.#connections.delete(connection);
    if (!this.#closing.signal.aborted) this.#logger.warn({ err, host, port }, "an SFTP connection was lost");
  }

  #failed(err: KvferryError): void {
    const { host, port, reconnectMsMin, reconnectMsMax } = this.#config;
    if (this.#closing.signal.aborted) return;
    // the first of a row: an operator would not see otherwise that fewer stand than might
    if (this.#failures === 0) {
      this.#logger.warn({ err, host, port, standing: this.size }, "an SFTP connection could not be made");
    }
    this.#failure = err;
    // half of it at random: servers that lost one host together do not come back together
    const pause = Math.min(reconnectMsMax, reconnectMsMin * 2 ** this.#failures) * (0.5 + Math.random() / 2);
    this.#failures = Math.min(this.#failures + 1, 30);
    this.#retryAtMs = this.#clock.monotonicMs() + pause;
  }
}

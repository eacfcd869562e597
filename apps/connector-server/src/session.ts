import {
  createNamespace,
  type KeyBatch,
  KvferryError,
  type Logger,
  type RemovalReason,
  toKvferryError,
} from "@kvferry/core";
import { type ConnectionHandlers, closeFd, type UnixConnection } from "@kvferry/native";
import {
  DESCRIPTORS_MAX,
  decodeClientMessage,
  encodeMessage,
  errorMessage,
  FRAME_BYTES_MAX,
  FRAME_BYTES_MAX_BEFORE_HELLO,
  FrameDecoder,
  type HelloMessage,
  PROTOCOL_VERSION,
  type ServerMessage,
  type WarmMessage,
} from "@kvferry/protocol";
import type { ResolvedLimits } from "./config.js";
import type { Throttle } from "./log.js";
import type { ServerMetrics } from "./metrics.js";
import type { NamespaceLease, NamespacePool } from "./namespaces.js";
import { type ClientRegion, checkRegion, mapClientRegion } from "./region.js";
import { Requests } from "./requests.js";
import { answerWarm } from "./warm/answer-warm.js";
import type { Warmer } from "./warm/warmer.js";

/** What all sessions share. */
export interface SessionContext {
  readonly identity: { readonly name: string; readonly version: string; readonly pid: number };
  readonly limits: ResolvedLimits;
  /** Ms that a store or load may take. */
  readonly deadlineMs: number;
  readonly namespaces: NamespacePool;
  readonly warmer: Warmer;
  readonly metrics: ServerMetrics;
  readonly logger: Logger;
  /** For lines that any client can cause. */
  readonly warnings: Throttle;
  /** The uid whose processes may connect; root may too. */
  readonly uid: number;
}

/** Facts of a session, for the status. */
export interface SessionStatus {
  readonly id: number;
  readonly client: string;
  readonly peerPid: number;
  readonly namespace: string | undefined;
  readonly requests: number;
  readonly connectedAtMs: number;
}

/** Ms that requests may take to finish after the client has said that no more come. */
const END_GRACE_MS = 5_000;
/** Ms that the last bytes may take to leave. */
const LINGER_MS = 2_000;

/** Keys of a REMOVED message. */
const REMOVED_KEYS_MAX = 65_536;
const FLUSH_POLL_MS = 10;
const nothing = new Uint8Array(0);

/** greeting: HELLO has not come. opening: it is being answered. warming: WARM came instead. ending: no more requests are read; I/O ends. */
type State = "greeting" | "opening" | "warming" | "open" | "ending" | "closed";

let lastSessionId = 0;

/**
 * One connection. It reads frames, answers HELLO, hands requests to `Requests`, and keeps the fence of docs/protocol.md: whatever ends
 * the session, its socket is closed only after its last I/O has ended and the region is unmapped.
 */
export class Session {
  readonly id: number = ++lastSessionId;
  /** Settles when the socket is closed. */
  readonly closed: Promise<void>;
  readonly #connection: UnixConnection;
  readonly #context: SessionContext;
  readonly #logger: Logger;
  readonly #decoder: FrameDecoder = new FrameDecoder(FRAME_BYTES_MAX_BEFORE_HELLO);
  readonly #connectedAtMs: number = Date.now();
  readonly #fds: number[] = [];
  #state: State = "greeting";
  #draining = false;
  /** The stream can take no more bytes. */
  #deaf = false;
  #hello: HelloMessage | undefined;
  #lease: NamespaceLease | undefined;
  #region: ClientRegion | undefined;
  #requests: Requests | undefined;
  /** Ends what WARM has begun. */
  readonly #warming: AbortController = new AbortController();
  #stopListening: (() => void) | undefined;
  #timer: NodeJS.Timeout | undefined;
  #peerGone = false;
  /** No I/O is under way and none can begin. */
  #released = false;
  #resolveClosed!: () => void;

  constructor(connection: UnixConnection, context: SessionContext) {
    this.#connection = connection;
    this.#context = context;
    this.#logger = context.logger;
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    this.#timer = setTimeout(() => {
      const waited = `no HELLO within ${context.limits.helloTimeoutMs} ms`;
      this.#fatal(new KvferryError("DEADLINE", waited, { operation: "hello" }));
    }, context.limits.helloTimeoutMs);
    const { uid } = connection.peer;
    if (uid !== context.uid && uid !== 0) {
      const reason = `peers of uid ${context.uid} and root may connect, not of uid ${uid}`;
      this.#fatal(new KvferryError("PERMISSION", reason, { operation: "hello" }));
    }
  }

  get status(): SessionStatus {
    return {
      id: this.id,
      client: this.#hello === undefined ? "" : `${this.#hello.client.name} ${this.#hello.client.version}`,
      peerPid: this.#connection.peer.pid,
      namespace: this.#lease?.namespace.digestHex,
      requests: this.#requests?.count ?? 0,
      connectedAtMs: this.#connectedAtMs,
    };
  }

  /** For the data plane, which calls them without a receiver. */
  get handlers(): ConnectionHandlers & { onEnd(): void } {
    return {
      onData: (bytes, fds) => this.#received(bytes, fds),
      onEnd: () => this.#peerEnded(),
      onClose: (error) => this.#over(error),
    };
  }

  /** Says that the server is about to end and takes no more stores and loads; ends once all requests are answered. */
  drain(): void {
    if (this.#draining) return;
    this.#draining = true;
    if (this.#state !== "open") {
      this.#fatal(new KvferryError("UNAVAILABLE", "the server is about to end", { operation: "hello" }));
      return;
    }
    this.#requests?.drain();
    this.#send({ t: "drain" });
    this.#requests?.whenIdle(() => this.#end("drained", true));
  }

  /** Turns the connection away. */
  refuse(reason: string): void {
    this.#fatal(new KvferryError("BUSY", reason, { operation: "hello" }));
  }

  /** Ends at once: what has not begun is not done; what is under way ends first. */
  abort(): void {
    if (this.#released) this.#close();
    else this.#end("aborted", false);
    this.#requests?.abort();
  }

  #received(bytes: Uint8Array, fds: readonly number[]): void {
    this.#takeDescriptors(fds);
    if (this.#state === "ending" || this.#state === "closed") return;
    try {
      this.#decoder.push(bytes);
      this.#readFrames();
    } catch (thrown) {
      this.#fatal(toKvferryError(thrown, "receive"));
    }
  }

  /** The peer has closed or half-closed: no more requests come, those under way may still be answered. */
  #peerEnded(): void {
    this.#peerGone = true;
    if (!this.#released) this.#end("the client ended it", true);
    else if (this.#connection.bufferedBytes === 0) this.#close();
  }

  /** The socket is closed: by us, or because it broke. */
  #over(error: Error | undefined): void {
    if (this.#state === "closed") return;
    this.#deaf = true;
    this.#peerGone = true;
    if (this.#released) this.#close();
    else this.#end(`it broke: ${error?.message ?? "closed"}`, false);
    this.#requests?.abort();
  }

  #takeDescriptors(fds: readonly number[]): void {
    for (const fd of fds) {
      // Only HELLO claims descriptors.
      if (this.#state === "greeting" && this.#fds.length < DESCRIPTORS_MAX) this.#fds.push(fd);
      else closeFd(fd);
    }
  }

  #readFrames(): void {
    while (this.#state === "greeting" || this.#state === "open") {
      const body = this.#decoder.next();
      if (body === undefined) return;
      const message = decodeClientMessage(body);
      if (this.#state === "greeting" && message.t === "warm") {
        void this.#warm(message);
      } else if (this.#state === "greeting") {
        if (message.t !== "hello") throw new KvferryError("PROTOCOL", `the first message is HELLO, not '${message.t}'`);
        if ("direct" in message) throw new KvferryError("UNSUPPORTED", "direct mode is not there yet");
        void this.#greet(message);
      } else if (message.t === "hello" || message.t === "warm") {
        throw new KvferryError("PROTOCOL", `'${message.t}' came after HELLO`);
      } else {
        this.#requests?.handle(message);
      }
    }
    if (this.#state === "opening" && this.#decoder.bufferedBytes > FRAME_BYTES_MAX_BEFORE_HELLO) {
      throw new KvferryError("PROTOCOL", `more than ${FRAME_BYTES_MAX_BEFORE_HELLO} bytes before HELLO was answered`);
    }
  }

  async #warm(message: WarmMessage): Promise<void> {
    this.#state = "warming";
    clearTimeout(this.#timer);
    this.#timer = undefined;
    try {
      await answerWarm(message, this.#context.warmer, this.#warming.signal, (each) => this.#send(each));
    } catch (thrown) {
      this.#fatal(toKvferryError(thrown, "warm"));
    }
    this.#end("warmed", false);
  }

  async #greet(hello: HelloMessage): Promise<void> {
    this.#state = "opening";
    clearTimeout(this.#timer); // opening a namespace may take as long as the backend lets it
    this.#timer = undefined;
    this.#hello = hello;
    const [fd, ...unclaimed] = this.#fds.splice(0);
    for (const each of unclaimed) closeFd(each);
    try {
      await this.#open(hello, fd);
    } catch (thrown) {
      this.#fatal(toKvferryError(thrown, "hello"));
      return this.#release();
    }
    if (this.#state !== "opening") return this.#release(); // ended meanwhile
    this.#welcome(hello);
    this.#received(nothing, []); // what came while HELLO was being answered
  }

  async #open(hello: HelloMessage, fd: number | undefined): Promise<void> {
    let unclaimed = fd;
    try {
      const namespace = createNamespace(hello.namespace);
      checkRegion(hello);
      unclaimed = undefined; // mapClientRegion takes it over
      this.#region = await mapClientRegion(hello, fd);
      const { keyBytes, blockBytes, vllmFs } = hello;
      this.#lease = await this.#context.namespaces.acquire(namespace, {
        keyBytes,
        blockBytes,
        vllmFs: vllmFs ?? undefined,
      });
    } finally {
      if (unclaimed !== undefined) closeFd(unclaimed);
    }
  }

  #welcome(hello: HelloMessage): void {
    const { lease, region } = { lease: this.#lease as NamespaceLease, region: this.#region as ClientRegion };
    const { identity, limits, metrics, deadlineMs } = this.#context;
    const batchKeysMax = Math.min(limits.batchKeysMax, lease.backend.manifest.limits.batchKeysMax);
    this.#requests = new Requests({
      backend: lease.backend,
      keyBytes: hello.keyBytes,
      deadlineMs,
      region,
      batchKeysMax,
      requestsMax: limits.requestsMax,
      requestBytesMax: limits.requestBytesMax,
      metrics,
      logger: this.#logger,
      send: (message) => this.#send(message),
    });
    if (hello.events) {
      this.#stopListening = lease.backend.onRemoved((keys, reason) => this.#sendRemoved(keys, reason));
    }
    this.#decoder.frameBytesMax = FRAME_BYTES_MAX;
    this.#state = "open";
    this.#send({
      t: "welcome",
      version: PROTOCOL_VERSION,
      server: identity,
      digest: lease.namespace.digestHex,
      requestsMax: limits.requestsMax,
      batchKeysMax,
    });
    const { client } = hello;
    this.#logger.info(
      {
        session: this.id,
        client,
        peer: this.#connection.peer,
        namespace: lease.namespace.digestHex,
        slots: hello.slots,
      },
      "an engine connected",
    );
  }

  #sendRemoved({ bytes, stride }: KeyBatch, reason: RemovalReason): void {
    const step = REMOVED_KEYS_MAX * stride; // however many there are, a frame has its bound
    for (let at = 0; at < bytes.length; at += step) {
      this.#send({ t: "removed", keys: bytes.subarray(at, at + step), reason });
    }
  }

  #send(message: ServerMessage): void {
    if (this.#deaf) return;
    try {
      if (this.#connection.send(encodeMessage(message))) return;
      this.#deaf = true;
    } catch (thrown) {
      this.#deaf = true;
      this.#logger.warn(
        { session: this.id, error: String(thrown) },
        "the client does not read its answers; closing its connection",
      );
    }
    // Nobody hears the answers any more.
    this.#end("the client does not read", false);
    this.#requests?.abort();
  }

  /** Tells the client why, and ends. */
  #fatal(error: KvferryError): void {
    if (this.#state === "ending" || this.#state === "closed") return;
    this.#context.metrics.refused(error.code);
    const facts = { session: this.id, code: error.code, context: error.context, peer: this.#connection.peer };
    const { allowed, suppressed } = this.#context.warnings.next();
    const more = suppressed > 0 ? ` (and ${suppressed} more since the last such line)` : "";
    this.#logger[allowed ? "warn" : "debug"](facts, `ending a connection: ${error.message}${more}`);
    this.#send(errorMessage(error));
    this.#end(error.message, false);
  }

  /** Reads no more. With `finish`, requests under way have some time to finish; else they are aborted. Then closes. */
  #end(reason: string, finish: boolean): void {
    if (this.#state === "ending" || this.#state === "closed") return;
    const wasOpening = this.#state === "opening";
    this.#state = "ending";
    this.#warming.abort();
    this.#decoder.clear();
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const fd of this.#fds.splice(0)) closeFd(fd);
    this.#logger.debug({ session: this.id, reason }, "a session ends");
    if (wasOpening) return; // #greet goes on to #release
    if (this.#requests === undefined) {
      this.#release();
      return;
    }
    if (!finish) this.#requests.abort();
    else this.#timer = setTimeout(() => this.#requests?.abort(), END_GRACE_MS);
    this.#requests.whenIdle(() => this.#release());
  }

  /** No I/O is under way: gives back region and namespace, then ends the stream. */
  #release(): void {
    this.#stopListening?.();
    this.#region?.close();
    this.#lease?.release();
    this.#region = undefined;
    this.#lease = undefined;
    this.#released = true;
    clearTimeout(this.#timer);
    if (this.#deaf) {
      this.#close();
      return;
    }
    // The end of the stream follows the last answer. Closing here and now would lose answers that the kernel has not taken yet, and
    // the peer would see a reset instead of an end if it had sent more.
    this.#connection.end();
    this.#linger(Math.ceil(LINGER_MS / FLUSH_POLL_MS));
  }

  #linger(polls: number): void {
    if (polls === 0 || (this.#peerGone && this.#connection.bufferedBytes === 0)) this.#close();
    else this.#timer = setTimeout(() => this.#linger(polls - 1), FLUSH_POLL_MS);
  }

  #close(): void {
    if (this.#state === "closed") return;
    this.#state = "closed";
    clearTimeout(this.#timer);
    this.#connection.close();
    this.#logger.debug({ session: this.id }, "a session has ended");
    this.#resolveClosed();
  }
}

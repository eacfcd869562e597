import { KvferryError, type Logger, toKvferryError } from "@kvferry/core";
import { type ConnectionHandlers, closeFd, type UnixConnection } from "@kvferry/native";
import {
  DESCRIPTORS_MAX,
  type DirectHelloMessage,
  decodeClientMessage,
  encodeMessage,
  errorMessage,
  FRAME_BYTES_MAX,
  FRAME_BYTES_MAX_BEFORE_HELLO,
  FrameDecoder,
  type HelloMessage,
  type ServerMessage,
  type WarmMessage,
} from "@kvferry/protocol";
import type { ResolvedLimits } from "./config.js";
import { openDirectSession } from "./direct/direct-session.js";
import type { DirectEngines } from "./direct/engines.js";
import type { Throttle } from "./log.js";
import type { ServerMetrics } from "./metrics.js";
import type { NamespacePool } from "./namespaces.js";
import type { OpenedSession, SessionLink } from "./opened-session.js";
import { handleRequest } from "./requests/session-requests.js";
import { openTierSession } from "./tier-session.js";
import { answerWarm } from "./warm/answer-warm.js";
import type { Warmer } from "./warm/warmer.js";

/** What all sessions share. */
export interface SessionContext {
  readonly identity: { readonly name: string; readonly version: string; readonly pid: number };
  readonly limits: ResolvedLimits;
  /** Ms that a store or load may take. */
  readonly deadlineMs: number;
  readonly namespaces: NamespacePool;
  readonly engines: DirectEngines;
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
  /** In direct mode. */
  readonly direct?: { readonly engine: string; readonly role: "scheduler" | "worker"; readonly part?: number };
}

/** Ms that requests may take to finish after the client has said that no more come. */
const END_GRACE_MS = 5_000;
/** Ms that the last bytes may take to leave. */
const LINGER_MS = 2_000;
const FLUSH_POLL_MS = 10;
const nothing = new Uint8Array(0);

/** greeting: HELLO has not come. opening: it is being answered. warming: WARM came instead. ending: no more requests are read; I/O ends. */
type State = "greeting" | "opening" | "warming" | "open" | "ending" | "closed";

let lastSessionId = 0;

/**
 * One connection. It reads frames, answers HELLO, hands requests to `Requests`, and keeps the fence of docs/protocol.md: whatever ends
 * the session, its socket is closed only after its last I/O has ended and the client's memory has been let go.
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
  #hello: HelloMessage | DirectHelloMessage | undefined;
  #opened: OpenedSession | undefined;
  /** Ends what WARM has begun. */
  readonly #warming: AbortController = new AbortController();
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
      namespace: this.#opened?.namespace.digestHex,
      requests: this.#opened?.requests.book.count ?? 0,
      connectedAtMs: this.#connectedAtMs,
      ...directStatus(this.#hello),
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
    this.#opened?.requests.book.drain();
    this.#send({ t: "drain" });
    this.#opened?.requests.book.whenIdle(() => this.#end("drained", true));
  }

  /** Turns the connection away. */
  refuse(reason: string): void {
    this.#fatal(new KvferryError("BUSY", reason, { operation: "hello" }));
  }

  /** Ends at once: what has not begun is not done; what is under way ends first. */
  abort(): void {
    if (this.#released) this.#close();
    else this.#end("aborted", false);
    this.#opened?.requests.book.abort();
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
    this.#opened?.requests.book.abort();
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
        void this.#greet(message);
      } else if (message.t === "hello" || message.t === "warm") {
        throw new KvferryError("PROTOCOL", `'${message.t}' came after HELLO`);
      } else if (this.#opened !== undefined) {
        handleRequest(this.#opened.requests, message);
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

  async #greet(hello: HelloMessage | DirectHelloMessage): Promise<void> {
    this.#state = "opening";
    clearTimeout(this.#timer); // opening a namespace may take as long as the backend lets it
    this.#timer = undefined;
    this.#hello = hello;
    const fds = this.#fds.splice(0);
    const link: SessionLink = { peer: this.#connection.peer, send: (message) => this.#send(message) };
    try {
      this.#opened =
        "direct" in hello
          ? await openDirectSession(hello, fds, this.#context, link)
          : await openTierSession(hello, fds, this.#context, link);
    } catch (thrown) {
      this.#fatal(toKvferryError(thrown, "hello"));
      return this.#release();
    }
    if (this.#state !== "opening") return this.#release(); // ended meanwhile
    this.#welcome(hello, this.#opened);
    this.#received(nothing, []); // what came while HELLO was being answered
  }

  /** If the peer has gone, and its pid with it, WELCOME cannot be sent, and none of its requests is read. */
  #welcome({ client }: HelloMessage | DirectHelloMessage, { welcome, fds, namespace, facts }: OpenedSession): void {
    this.#decoder.frameBytesMax = FRAME_BYTES_MAX;
    this.#state = "open";
    this.#send(welcome, fds);
    const { peer } = this.#connection;
    const common = { session: this.id, client, peer, namespace: namespace.digestHex };
    this.#logger.info({ ...common, ...facts }, "an engine connected");
  }

  #send(message: ServerMessage, fds: readonly number[] = []): void {
    if (this.#deaf) return;
    try {
      if (this.#connection.send(encodeMessage(message), fds)) return;
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
    this.#opened?.requests.book.abort();
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
    const book = this.#opened?.requests.book;
    if (book === undefined) {
      void this.#release();
      return;
    }
    if (!finish) book.abort();
    else this.#timer = setTimeout(() => book.abort(), END_GRACE_MS);
    book.whenIdle(() => void this.#release());
  }

  /** No request is under way: gives back the client's memory and the namespace, then ends the stream. */
  async #release(): Promise<void> {
    try {
      await this.#opened?.close();
    } catch (thrown) {
      this.#logger.error({ session: this.id, error: String(thrown) }, "letting go of a client's memory failed");
    }
    this.#opened = undefined;
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

function directStatus(hello: HelloMessage | DirectHelloMessage | undefined): Pick<SessionStatus, "direct"> {
  if (hello === undefined || !("direct" in hello)) return {};
  const { direct } = hello;
  const { engine, role } = direct;
  return { direct: direct.role === "worker" ? { engine, role, part: direct.part } : { engine, role } };
}

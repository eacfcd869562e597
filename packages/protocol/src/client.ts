import {
  type BatchResult,
  type KeyBatch,
  KvferryError,
  type NamespaceFields,
  packedKeys,
  type RemovalReason,
  toKvferryError,
} from "@kvferry/core";
import { decodeServerMessage, errorFromMessage } from "./decode.js";
import { encodeMessage } from "./encode.js";
import { FrameDecoder } from "./frames.js";
import { FRAME_BYTES_MAX, PROTOCOL_VERSION, REQUEST_ID_MAX } from "./limits.js";
import type {
  ClientIdentity,
  HelloMessage,
  RequestMessage,
  ServerMessage,
  VllmFsNames,
  WelcomeMessage,
} from "./messages.js";
import { type Connector, type FrameTransport, nativeTransport, netTransport } from "./transport.js";

const HELLO_TIMEOUT_MS = 30_000;

/** The memory that holds the blocks: a region of @kvferry/native (by its descriptor), or a file (by its path). */
export interface ClientRegion {
  readonly rows: number;
  readonly rowBytes: number;
  /** Byte offset of row 0 in the file, a multiple of 4096; default 0. */
  readonly offset?: number;
  /** Descriptor to pass; left out or negative, `path` is used. It stays the caller's. */
  readonly fd?: number;
  /** Absolute path, as the server sees it. */
  readonly path?: string;
}

export interface ConnectOptions {
  /** Path of the server's socket. */
  readonly socket?: string;
  /** Instead of `socket`: another way to connect. */
  readonly transport?: Connector;
  readonly namespace: NamespaceFields;
  readonly keyBytes: number;
  /** Default: the region's rowBytes. */
  readonly blockBytes?: number;
  readonly region: ClientRegion;
  readonly client?: Partial<ClientIdentity>;
  readonly vllmFs?: VllmFsNames;
  /** Hears of blocks that are gone. */
  readonly onRemoved?: (keys: KeyBatch, reason: RemovalReason) => void;
  /** The server is about to end: it answers what it has and takes no new stores and loads. */
  readonly onDrain?: () => void;
  /** Ms until the server must have answered HELLO; default 30,000. */
  readonly timeoutMs?: number;
}

export interface RequestOptions {
  /** Sends CANCEL. The promise still settles only when nothing touches the slots any more. */
  readonly signal?: AbortSignal;
}

export interface TransferResult extends BatchResult {
  /** Microseconds that the server took. */
  readonly us: number;
}

interface Pending {
  readonly type: RequestMessage["t"];
  readonly count: number;
  resolve(value: never): void;
  reject(error: KvferryError): void;
}

/**
 * One connection to the connector server. Any number of requests may be under way, up to `welcome.requestsMax`.
 *
 * A promise of `store` or `load` settles only when no I/O touches its slots any more: by the server's answer, or by the end of the stream,
 * which the server closes after the last of its I/O. So it may settle late, and never too early.
 */
export class KvferryClient {
  readonly welcome: WelcomeMessage;
  readonly #link: Link;
  readonly #keyBytes: number;
  #nextId = 0;

  private constructor(link: Link, welcome: WelcomeMessage, keyBytes: number) {
    this.#link = link;
    this.welcome = welcome;
    this.#keyBytes = keyBytes;
  }

  /** Connects, passes the region and waits for WELCOME.
   * @throws KvferryError UNAVAILABLE where no server listens, DEADLINE where it does not answer, or what the server refused it with. */
  static async connect(options: ConnectOptions): Promise<KvferryClient> {
    const link = new Link(options);
    await link.open(connectorOf(options));
    const welcome = await link.greet(helloOf(options), options);
    return new KvferryClient(link, welcome, options.keyBytes);
  }

  /** False once the connection is over; every call rejects from then on. */
  get connected(): boolean {
    return !this.#link.over;
  }

  /** Settles (never rejects) when the connection is over, with the reason if there is one. */
  get closed(): Promise<KvferryError | undefined> {
    return this.#link.closed;
  }

  /** One LookupState byte per key. */
  lookup(keys: KeyBatch, options: RequestOptions = {}): Promise<Uint8Array> {
    return this.#request({ t: "lookup", id: this.#id(), keys: this.#packed(keys) }, keys.count, options);
  }

  /** Stores the blocks in the slots. */
  store(keys: KeyBatch, slots: ArrayLike<number>, options: RequestOptions = {}): Promise<TransferResult> {
    return this.#transfer("store", keys, slots, options);
  }

  /** Loads blocks into the slots. */
  load(keys: KeyBatch, slots: ArrayLike<number>, options: RequestOptions = {}): Promise<TransferResult> {
    return this.#transfer("load", keys, slots, options);
  }

  ping(): Promise<void> {
    return this.#request({ t: "ping", id: this.#id() }, 0, {});
  }

  /** Ends the connection: says that no more requests come, and waits until the server has ended its I/O and the stream. Requests under
   * way are finished and answered, unless that takes the server too long. Afterwards no slot is touched. */
  async close(): Promise<void> {
    this.#link.end();
    await this.#link.closed;
  }

  async #transfer(
    t: "store" | "load",
    keys: KeyBatch,
    slots: ArrayLike<number>,
    options: RequestOptions,
  ): Promise<TransferResult> {
    if (slots.length !== keys.count) {
      throw new KvferryError("INVALID_ARGUMENT", `${slots.length} slots for ${keys.count} keys`, { operation: t });
    }
    const packed = slots instanceof Uint32Array ? slots : Uint32Array.from(slots);
    return this.#request({ t, id: this.#id(), keys: this.#packed(keys), slots: packed }, keys.count, options);
  }

  #packed(keys: KeyBatch): Uint8Array {
    if (keys.stride !== this.#keyBytes) {
      throw new KvferryError(
        "INVALID_ARGUMENT",
        `keys of ${keys.stride} bytes on a connection with keyBytes ${this.#keyBytes}`,
      );
    }
    return keys.bytes;
  }

  #id(): number {
    do this.#nextId = this.#nextId === REQUEST_ID_MAX ? 0 : this.#nextId + 1;
    while (this.#link.pending.has(this.#nextId));
    return this.#nextId;
  }

  #request<T>(message: RequestMessage, count: number, { signal }: RequestOptions): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (signal?.aborted) {
        reject(new KvferryError("ABORTED", `${message.t}: aborted before it was sent`, { operation: message.t }));
        return;
      }
      const cancel = (): void => void this.#link.send({ t: "cancel", id: this.#id(), target: message.id });
      const release = (): void => signal?.removeEventListener("abort", cancel);
      this.#link.pending.set(message.id, {
        type: message.t,
        count,
        resolve(value) {
          release();
          resolve(value);
        },
        reject(error) {
          release();
          reject(error);
        },
      });
      signal?.addEventListener("abort", cancel, { once: true });
      try {
        if (this.#link.send(message)) return;
      } catch (thrown) {
        this.#link.take(message.id)?.reject(toKvferryError(thrown, message.t));
        return;
      }
      this.#link.take(message.id)?.reject(this.#link.overError(message.t));
    });
  }
}

/** The stream, its decoder and what waits for answers. */
class Link {
  readonly pending: Map<number, Pending> = new Map();
  readonly closed: Promise<KvferryError | undefined>;
  readonly #options: ConnectOptions;
  readonly #decoder: FrameDecoder = new FrameDecoder(FRAME_BYTES_MAX);
  #transport: FrameTransport | undefined;
  #resolveClosed!: (error: KvferryError | undefined) => void;
  #onWelcome: { resolve(message: WelcomeMessage): void; reject(error: KvferryError): void } | undefined;
  #error: KvferryError | undefined;
  #over = false;

  constructor(options: ConnectOptions) {
    this.#options = options;
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
  }

  get over(): boolean {
    return this.#over;
  }

  async open(connect: Connector): Promise<void> {
    try {
      this.#transport = await connect({
        onData: (bytes) => this.#received(bytes),
        onClose: (error) => this.#ended(error),
      });
    } catch (thrown) {
      throw toKvferryError(thrown, "connect");
    }
  }

  async greet(hello: HelloMessage, { region, timeoutMs = HELLO_TIMEOUT_MS }: ConnectOptions): Promise<WelcomeMessage> {
    const fds = region.fd !== undefined && region.fd >= 0 ? [region.fd] : [];
    const answer = new Promise<WelcomeMessage>((resolve, reject) => {
      this.#onWelcome = { resolve, reject };
    });
    const timer = setTimeout(() => {
      this.#fail(
        new KvferryError("DEADLINE", `the server did not answer HELLO within ${timeoutMs} ms`, {
          operation: "connect",
        }),
      );
      this.#transport?.close(); // no request was sent: there is no slot to guard
    }, timeoutMs);
    try {
      if (this.#transport?.send(encodeMessage(hello), fds) !== true) throw this.overError("connect");
      return await answer;
    } finally {
      clearTimeout(timer);
    }
  }

  /** False once the connection is over. */
  send(message: RequestMessage): boolean {
    if (this.#over || this.#transport === undefined) return false;
    return this.#transport.send(encodeMessage(message));
  }

  end(): void {
    if (!this.#over) this.#transport?.end();
  }

  take(id: number): Pending | undefined {
    const pending = this.pending.get(id);
    this.pending.delete(id);
    return pending;
  }

  overError(operation: string): KvferryError {
    const reason = this.#error === undefined ? "" : `: ${this.#error.message}`;
    return new KvferryError(this.#error?.code ?? "UNAVAILABLE", `the connection to the server is over${reason}`, {
      operation,
      ...(this.#error === undefined ? {} : { cause: this.#error, context: { ...this.#error.context } }),
    });
  }

  #received(bytes: Uint8Array): void {
    try {
      this.#decoder.push(bytes);
      for (let body = this.#decoder.next(); body !== undefined; body = this.#decoder.next()) {
        this.#dispatch(decodeServerMessage(body));
      }
    } catch (thrown) {
      // The stream makes no sense any more, but only its end says that no slot is touched.
      this.#fail(toKvferryError(thrown, "receive"));
      this.#decoder.clear();
      this.end();
    }
  }

  #dispatch(message: ServerMessage): void {
    switch (message.t) {
      case "welcome":
        this.#onWelcome?.resolve(message);
        this.#onWelcome = undefined;
        return;
      case "drain":
        this.#options.onDrain?.();
        return;
      case "removed":
        this.#options.onRemoved?.(packedKeys(message.keys, this.#options.keyBytes), message.reason);
        return;
      case "error":
        if (message.id === undefined) this.#fail(errorFromMessage(message));
        else this.take(message.id)?.reject(errorFromMessage(message));
        return;
      case "warming":
        throw new KvferryError("PROTOCOL", "the server sent 'warming', which only WARM is answered by");
      default:
        this.#answer(message);
    }
  }

  #answer(message: Extract<ServerMessage, { t: "states" | "done" | "pong" }>): void {
    const pending = this.pending.get(message.id);
    if (pending === undefined || !isAnswer(pending, message)) {
      throw new KvferryError(
        "PROTOCOL",
        `the server sent a '${message.t}' for request ${message.id} that does not fit it`,
      );
    }
    this.pending.delete(message.id);
    if (message.t === "states") pending.resolve(message.states as never);
    else if (message.t === "pong") pending.resolve(undefined as never);
    else pending.resolve({ outcomes: message.outcomes, codes: message.codes, us: message.us } as never);
  }

  /** Remembers why the connection is about to end; the first reason is the one that explains. */
  #fail(error: KvferryError): void {
    this.#error ??= error;
    this.#onWelcome?.reject(this.#error);
    this.#onWelcome = undefined;
  }

  #ended(error: Error | undefined): void {
    if (error !== undefined) this.#error ??= toKvferryError(error, "receive");
    this.#over = true;
    this.#transport?.close();
    this.#onWelcome?.reject(this.overError("connect"));
    const waiting = [...this.pending.values()];
    this.pending.clear();
    for (const each of waiting) each.reject(this.overError(each.type));
    this.#resolveClosed(this.#error);
  }
}

function isAnswer(pending: Pending, message: Extract<ServerMessage, { t: "states" | "done" | "pong" }>): boolean {
  if (message.t === "pong") return pending.type === "ping";
  if (message.t === "states") return pending.type === "lookup" && message.states.length === pending.count;
  const transfer = pending.type === "store" || pending.type === "load";
  return transfer && message.outcomes.length === pending.count && message.codes.length === pending.count;
}

function connectorOf({ transport, socket, region }: ConnectOptions): Connector {
  if (transport !== undefined) return transport;
  if (socket === undefined) throw new KvferryError("INVALID_ARGUMENT", "connect needs `socket` or `transport`");
  if (region.fd !== undefined && region.fd >= 0) return nativeTransport(socket);
  if (region.path === undefined) throw new KvferryError("INVALID_ARGUMENT", "the region needs `fd` or `path`");
  return netTransport(socket);
}

function helloOf(options: ConnectOptions): HelloMessage {
  const { region, client, vllmFs, onRemoved } = options;
  const offset = region.offset ?? 0;
  const blockBytes = options.blockBytes ?? region.rowBytes;
  const bytes = offset + region.rows * region.rowBytes;
  return {
    t: "hello",
    version: PROTOCOL_VERSION,
    client: {
      name: client?.name ?? "kvferry-client",
      version: client?.version ?? "0",
      instance: client?.instance ?? crypto.randomUUID(),
    },
    namespace: options.namespace,
    keyBytes: options.keyBytes,
    blockBytes,
    regions: [region.path === undefined ? { bytes } : { bytes, path: region.path }],
    fragments: [{ region: 0, offset, stride: region.rowBytes, bytes: blockBytes }],
    slots: region.rows,
    vllmFs: vllmFs ?? null,
    events: onRemoved !== undefined,
  };
}

import { type KeyBatch, KvferryError, packedKeys, type RemovalReason, toKvferryError } from "@kvferry/core";
import { decodeServerMessage, errorFromMessage } from "./decode.js";
import type { StoredMessage } from "./direct-messages.js";
import { encodeMessage } from "./encode.js";
import { FrameDecoder } from "./frames.js";
import { DESCRIPTORS_MAX, FRAME_BYTES_MAX, REQUEST_ID_MAX } from "./limits.js";
import type { ClientMessage, RequestMessage, ServerMessage, WelcomeMessage } from "./messages.js";
import type { Connector, FrameTransport } from "./transport.js";

const HELLO_TIMEOUT_MS = 30_000;

export interface RequestOptions {
  /** Sends CANCEL. The promise still settles only when nothing touches the memory of the request any more. */
  readonly signal?: AbortSignal;
}

export interface LinkOptions {
  readonly keyBytes: number;
  readonly onRemoved?: ((keys: KeyBatch, reason: RemovalReason) => void) | undefined;
  readonly onDrain?: (() => void) | undefined;
  readonly onStored?: ((message: StoredMessage) => void) | undefined;
  /** Ms until the server must have answered HELLO; default 30,000. */
  readonly timeoutMs?: number | undefined;
}

/** What the server has answered HELLO with. */
export interface Greeting {
  readonly welcome: WelcomeMessage;
  /** Descriptors that came with it; whoever gets them closes them. */
  readonly fds: readonly number[];
}

/** A message that is answered. */
export type Question = Extract<RequestMessage, { readonly id: number }>;
type Answer = Extract<ServerMessage, { t: "states" | "done" | "held" | "pong" }>;

interface Pending {
  readonly type: Question["t"];
  readonly count: number;
  resolve(value: never): void;
  reject(error: KvferryError): void;
}

/** The stream of a client, its decoder and what waits for answers. */
export class Link {
  readonly closed: Promise<KvferryError | undefined>;
  readonly #options: LinkOptions;
  readonly #pending: Map<number, Pending> = new Map();
  readonly #decoder: FrameDecoder = new FrameDecoder(FRAME_BYTES_MAX);
  readonly #fds: number[] = [];
  #nextId = 0;
  #transport: FrameTransport | undefined;
  #resolveClosed!: (error: KvferryError | undefined) => void;
  #onWelcome: { resolve(message: WelcomeMessage): void; reject(error: KvferryError): void } | undefined;
  #error: KvferryError | undefined;
  #over = false;

  constructor(options: LinkOptions) {
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
        onData: (bytes, fds = []) => {
          this.#takeDescriptors(fds);
          this.#received(bytes);
        },
        onClose: (error) => this.#ended(error),
      });
    } catch (thrown) {
      throw toKvferryError(thrown, "connect");
    }
  }

  /** Sends HELLO and waits for WELCOME. */
  async greet(hello: ClientMessage, fds: readonly number[]): Promise<Greeting> {
    const { timeoutMs = HELLO_TIMEOUT_MS } = this.#options;
    const answer = new Promise<WelcomeMessage>((resolve, reject) => {
      this.#onWelcome = { resolve, reject };
    });
    const timer = setTimeout(() => {
      this.#fail(
        new KvferryError("DEADLINE", `the server did not answer HELLO within ${timeoutMs} ms`, {
          operation: "connect",
        }),
      );
      this.#transport?.close(); // no request was sent: there is no memory to guard
    }, timeoutMs);
    try {
      if (this.#transport?.send(encodeMessage(hello), fds) !== true) throw this.#overError("connect");
      return { welcome: await answer, fds: this.#fds.splice(0) };
    } finally {
      clearTimeout(timer);
    }
  }

  /** An id that no request has that is under way. */
  id(): number {
    do this.#nextId = this.#nextId === REQUEST_ID_MAX ? 0 : this.#nextId + 1;
    while (this.#pending.has(this.#nextId));
    return this.#nextId;
  }

  /** @throws KvferryError INVALID_ARGUMENT for keys of another length. */
  packed(keys: KeyBatch): Uint8Array {
    if (keys.stride === this.#options.keyBytes) return keys.bytes;
    throw new KvferryError(
      "INVALID_ARGUMENT",
      `keys of ${keys.stride} bytes on a connection with keyBytes ${this.#options.keyBytes}`,
    );
  }

  /** Sends a request and waits for the answer to it. */
  request<T>(message: Question, count: number, { signal }: RequestOptions): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (signal?.aborted) {
        reject(new KvferryError("ABORTED", `${message.t}: aborted before it was sent`, { operation: message.t }));
        return;
      }
      const cancel = (): void => void this.send({ t: "cancel", id: this.id(), target: message.id });
      const release = (): void => signal?.removeEventListener("abort", cancel);
      this.#pending.set(message.id, {
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
        if (this.send(message)) return;
      } catch (thrown) {
        this.#take(message.id)?.reject(toKvferryError(thrown, message.t));
        return;
      }
      this.#take(message.id)?.reject(this.#overError(message.t));
    });
  }

  /** False once the connection is over. */
  send(message: RequestMessage): boolean {
    if (this.#over || this.#transport === undefined) return false;
    return this.#transport.send(encodeMessage(message));
  }

  end(): void {
    if (!this.#over) this.#transport?.end();
  }

  #take(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    return pending;
  }

  #overError(operation: string): KvferryError {
    const reason = this.#error === undefined ? "" : `: ${this.#error.message}`;
    return new KvferryError(this.#error?.code ?? "UNAVAILABLE", `the connection to the server is over${reason}`, {
      operation,
      ...(this.#error === undefined ? {} : { cause: this.#error, context: { ...this.#error.context } }),
    });
  }

  /** Only WELCOME brings some. */
  #takeDescriptors(fds: readonly number[]): void {
    for (const fd of fds) {
      if (this.#onWelcome !== undefined && this.#fds.length < DESCRIPTORS_MAX) this.#fds.push(fd);
      else this.#transport?.closeFd?.(fd);
    }
  }

  #received(bytes: Uint8Array): void {
    try {
      this.#decoder.push(bytes);
      for (let body = this.#decoder.next(); body !== undefined; body = this.#decoder.next()) {
        this.#dispatch(decodeServerMessage(body));
      }
    } catch (thrown) {
      // The stream makes no sense any more, but only its end says that no memory is touched.
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
      case "stored":
        this.#options.onStored?.(message);
        return;
      case "error":
        if (message.id === undefined) this.#fail(errorFromMessage(message));
        else this.#take(message.id)?.reject(errorFromMessage(message));
        return;
      case "warming":
        throw new KvferryError("PROTOCOL", "the server sent 'warming', which only WARM is answered by");
      default:
        this.#answer(message);
    }
  }

  #answer(message: Answer): void {
    const pending = this.#pending.get(message.id);
    if (pending === undefined || !isAnswer(pending, message)) {
      throw new KvferryError(
        "PROTOCOL",
        `the server sent a '${message.t}' for request ${message.id} that does not fit it`,
      );
    }
    this.#pending.delete(message.id);
    if (message.t === "states") pending.resolve(message.states as never);
    else if (message.t === "pong") pending.resolve(undefined as never);
    else {
      const { t: _t, id: _id, ...result } = message;
      pending.resolve(result as never);
    }
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
    for (const fd of this.#fds.splice(0)) this.#transport?.closeFd?.(fd); // WELCOME has not taken them
    this.#transport?.close();
    this.#onWelcome?.reject(this.#overError("connect"));
    const waiting = [...this.#pending.values()];
    this.#pending.clear();
    for (const each of waiting) each.reject(this.#overError(each.type));
    this.#resolveClosed(this.#error);
  }
}

const DONE_TYPES: readonly Question["t"][] = ["store", "load", "gather", "scatter"];

function isAnswer({ type, count }: Pending, message: Answer): boolean {
  switch (message.t) {
    case "pong":
      return type === "ping";
    case "states":
      return type === "lookup" && message.states.length === count;
    case "held":
      return type === "hold" && hasCount(message, count) && message.offsets.length === count;
    case "done":
      return DONE_TYPES.includes(type) && hasCount(message, count);
  }
}

function hasCount({ outcomes, codes }: { outcomes: Uint8Array; codes: Uint8Array }, count: number): boolean {
  return outcomes.length === count && codes.length === count;
}

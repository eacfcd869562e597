import { setMaxListeners } from "node:events";
import { type BatchResult, type KeyBatch, KvferryError, type Logger, toKvferryError } from "@kvferry/core";
import { errorMessage, type ServerMessage } from "@kvferry/protocol";
import type { Operation, ServerMetrics } from "../metrics.js";

export interface RequestBookOptions {
  readonly keyBytes: number;
  readonly requestsMax: number;
  readonly requestBytesMax: number;
  readonly metrics: ServerMetrics;
  readonly logger: Logger;
  send(message: ServerMessage): void;
}

/** A request as it arrives. */
export interface Arrival {
  readonly id: number;
  readonly operation: Operation;
  /** Bytes of it that stay in memory until it is answered. */
  readonly payloadBytes: number;
}

/** A request that is being worked on. */
export interface Work {
  /** Aborted by CANCEL (of all but lookups) and with the session. */
  readonly signal: AbortSignal;
  /** Whole microseconds since it arrived. */
  us(): number;
}

export interface Answer {
  readonly message: ServerMessage;
  readonly keys: number;
  /** States of a lookup, outcomes of all else. */
  readonly result: Uint8Array | BatchResult;
  /** Called if the session ended before the answer could be sent. */
  undelivered?(): void;
}

interface Request {
  readonly bytes: number;
  readonly startedMs: number;
  readonly controller: AbortController | undefined;
}

/** Bytes of a request's bookkeeping: many small ones are not free either. */
const REQUEST_OVERHEAD_BYTES = 512;
/** What a server that is about to end goes on with: nothing that takes memory or moves bytes to storage. */
const WHILE_DRAINING: readonly Operation[] = ["lookup", "scatter"];

/** The requests of one session that are not answered: their bounds, their cancelling, and when there is none. */
export class RequestBook {
  readonly #options: RequestBookOptions;
  readonly #requests: Map<number, Request> = new Map();
  /** For lookups, which have no signal of their own: they touch no memory of the client's, so their end matters to nobody else. */
  readonly #all: AbortController = new AbortController();
  readonly #idleCallbacks: (() => void)[] = [];
  #bytes = 0;
  #draining = false;

  constructor(options: RequestBookOptions) {
    this.#options = options;
    setMaxListeners(0, this.#all.signal);
  }

  /** Unanswered requests. */
  get count(): number {
    return this.#requests.size;
  }

  get isAborted(): boolean {
    return this.#all.signal.aborted;
  }

  has(id: number): boolean {
    return this.#requests.has(id);
  }

  /** Calls back when no request is under way: now, or later. */
  whenIdle(callback: () => void): void {
    if (this.#requests.size === 0) callback();
    else this.#idleCallbacks.push(callback);
  }

  /** Refuses what is new from now on. */
  drain(): void {
    this.#draining = true;
  }

  /** What has not begun ends as FAILED(ABORTED); what is under way ends first. */
  abort(): void {
    if (this.isAborted) return;
    this.#all.abort();
    for (const { controller } of this.#requests.values()) controller?.abort();
  }

  cancel(id: number): void {
    this.#requests.get(id)?.controller?.abort();
  }

  pong(id: number): void {
    this.#options.send({ t: "pong", id });
  }

  /** Works on a request and answers it: with what `work` comes to, with the error it throws, or with why it is refused.
   * @throws KvferryError PROTOCOL, which ends the connection, for an id that is in use. */
  run(arrival: Arrival, work: (work: Work) => Promise<Answer>): void {
    const { id, operation, payloadBytes } = arrival;
    if (this.#requests.has(id)) {
      throw new KvferryError("PROTOCOL", `the id ${id} is in use by a request that is not answered yet`, {
        context: { field: "id" },
      });
    }
    const bytes = payloadBytes + REQUEST_OVERHEAD_BYTES;
    const refusal = this.#refusal(operation, bytes);
    if (refusal !== undefined) {
      this.#answerError(operation, id, refusal);
      return;
    }
    this.#bytes += bytes;
    const controller = operation === "lookup" ? undefined : new AbortController();
    const request = { bytes, startedMs: performance.now(), controller };
    this.#requests.set(id, request);
    void this.#run(arrival, request, work);
  }

  /** The keys of a request.
   * @throws KvferryError INVALID_ARGUMENT, which fails the request. */
  keys(bytes: Uint8Array, operation: Operation, countMax: number): KeyBatch {
    const { keyBytes } = this.#options;
    const count = bytes.length / keyBytes;
    if (Number.isInteger(count) && count <= countMax) return { bytes, stride: keyBytes, count };
    throw new KvferryError(
      "INVALID_ARGUMENT",
      `${operation}: 'keys' has ${bytes.length} bytes; it takes up to ${countMax} keys of ${keyBytes}`,
      { operation, context: { field: "keys" } },
    );
  }

  #refusal(operation: Operation, bytes: number): KvferryError | undefined {
    const { requestsMax, requestBytesMax } = this.#options;
    if (this.#requests.size >= requestsMax) {
      return new KvferryError("BUSY", `${requestsMax} requests are unanswered, which is the most`, { operation });
    }
    if (this.#bytes + bytes > requestBytesMax) {
      return new KvferryError("BUSY", `unanswered requests may hold ${requestBytesMax} bytes`, { operation });
    }
    if (this.#draining && !WHILE_DRAINING.includes(operation)) {
      return new KvferryError("UNAVAILABLE", "the server is about to end", { operation });
    }
    return undefined;
  }

  async #run({ id, operation }: Arrival, request: Request, work: (work: Work) => Promise<Answer>): Promise<void> {
    const { startedMs, controller } = request;
    const signal = controller?.signal ?? this.#all.signal;
    try {
      const answer = await work({ signal, us: () => Math.round((performance.now() - startedMs) * 1000) });
      this.#forget(id, request);
      const { message, keys, result } = answer;
      this.#options.metrics.answered(operation, keys, (performance.now() - startedMs) / 1000, result);
      this.#options.send(message);
      if (this.isAborted) answer.undelivered?.();
    } catch (thrown) {
      this.#forget(id, request);
      this.#failed(operation, id, thrown);
    }
    this.#checkIdle();
  }

  #failed(operation: Operation, id: number, thrown: unknown): void {
    const error = toKvferryError(thrown, operation);
    if (error.code === "INTERNAL") {
      this.#options.logger.error(
        { operation, error: error.message, stack: (error.cause as Error | undefined)?.stack },
        "a request failed",
      );
    }
    this.#answerError(operation, id, error);
  }

  #answerError(operation: Operation, id: number, error: KvferryError): void {
    this.#options.metrics.failed(operation, error.code);
    this.#options.send(errorMessage(error, id));
  }

  #forget(id: number, { bytes }: Request): void {
    if (this.#requests.delete(id)) this.#bytes -= bytes;
  }

  /** After the answer was sent: who waits for idleness may close the stream. */
  #checkIdle(): void {
    if (this.#requests.size > 0) return;
    for (const callback of this.#idleCallbacks.splice(0)) callback();
  }
}

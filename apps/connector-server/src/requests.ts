import { setMaxListeners } from "node:events";
import {
  type BatchResult,
  type ErrorCode,
  type KeyBatch,
  KvferryError,
  type Logger,
  type OffloadBackend,
  type Region,
  toKvferryError,
} from "@kvferry/core";
import {
  errorMessage,
  LOOKUP_KEYS_MAX,
  type LoadMessage,
  type LookupMessage,
  type RequestMessage,
  type ServerMessage,
  type StoreMessage,
} from "@kvferry/protocol";
import type { ServerMetrics } from "./metrics.js";

export interface RequestsOptions {
  readonly backend: OffloadBackend;
  readonly keyBytes: number;
  /** Ms that a store or load may take. */
  readonly deadlineMs: number;
  readonly region: Region;
  readonly batchKeysMax: number;
  readonly requestsMax: number;
  readonly requestBytesMax: number;
  readonly metrics: ServerMetrics;
  readonly logger: Logger;
  send(message: ServerMessage): void;
}

interface Request {
  /** Bytes that it keeps in memory. */
  readonly bytes: number;
  readonly startedMs: number;
  /** For stores and loads. */
  readonly controller: AbortController | undefined;
}

type Operation = "lookup" | "store" | "load";

/** Bytes of a request's bookkeeping: many small ones are not free either. */
const REQUEST_OVERHEAD_BYTES = 512;

/** The requests of one session: checks them, hands them to the backend, answers. Knows when none is under way. */
export class Requests {
  readonly #options: RequestsOptions;
  readonly #requests: Map<number, Request> = new Map();
  /** For lookups, which have no signal of their own: they touch no slot, so their end matters to nobody else. */
  readonly #lookups: AbortController = new AbortController();
  #bytes = 0;
  #draining = false;
  #aborted = false;
  readonly #idleCallbacks: (() => void)[] = [];

  constructor(options: RequestsOptions) {
    this.#options = options;
    setMaxListeners(0, this.#lookups.signal);
  }

  /** Unanswered requests. */
  get count(): number {
    return this.#requests.size;
  }

  /** Calls back when no request is under way: now, or later. */
  whenIdle(callback: () => void): void {
    if (this.#requests.size === 0) callback();
    else this.#idleCallbacks.push(callback);
  }

  /** Refuses new stores and loads. */
  drain(): void {
    this.#draining = true;
  }

  /** What has not begun ends as FAILED(ABORTED); what is under way ends first. */
  abort(): void {
    if (this.#aborted) return;
    this.#aborted = true;
    this.#lookups.abort();
    for (const { controller } of this.#requests.values()) controller?.abort();
  }

  /** @throws KvferryError PROTOCOL for what ends the connection; all else is answered. */
  handle(message: RequestMessage): void {
    switch (message.t) {
      case "ping":
        this.#options.send({ t: "pong", id: message.id });
        return;
      case "cancel":
        this.#requests.get(message.target)?.controller?.abort();
        return;
      case "lookup":
        if (this.#lookupNow(message)) return;
        if (this.#begin(message, message.keys.byteLength, undefined)) void this.#lookup(message);
        return;
      case "hold":
      case "release":
      case "gather":
      case "scatter":
        throw new KvferryError("PROTOCOL", `'${message.t}' belongs to direct mode`, { context: { field: "t" } });
      default: {
        const bytes = message.keys.byteLength + message.slots.byteLength;
        if (this.#begin(message, bytes, new AbortController())) void this.#transfer(message);
      }
    }
  }

  /** Whether the request may go on; if not, it has been answered. */
  #begin(
    message: LookupMessage | StoreMessage | LoadMessage,
    payloadBytes: number,
    controller: AbortController | undefined,
  ): boolean {
    const { id } = message;
    if (this.#requests.has(id)) {
      throw new KvferryError("PROTOCOL", `the id ${id} is in use by a request that is not answered yet`, {
        context: { field: "id" },
      });
    }
    const bytes = payloadBytes + REQUEST_OVERHEAD_BYTES;
    const refusal = this.#refusal(message.t, bytes);
    if (refusal !== undefined) {
      this.#answerError(message.t, id, refusal);
      return false;
    }
    this.#bytes += bytes;
    this.#requests.set(id, { bytes, startedMs: performance.now(), controller });
    return true;
  }

  #refusal(operation: Operation, bytes: number): KvferryError | undefined {
    const { requestsMax, requestBytesMax } = this.#options;
    if (this.#requests.size >= requestsMax) {
      return new KvferryError("BUSY", `${requestsMax} requests are unanswered, which is the most`, { operation });
    }
    if (this.#bytes + bytes > requestBytesMax) {
      return new KvferryError("BUSY", `unanswered requests may hold ${requestBytesMax} bytes`, { operation });
    }
    if (this.#draining && operation !== "lookup") {
      return new KvferryError("UNAVAILABLE", "the server is about to end", { operation });
    }
    return undefined;
  }

  /** Answers from memory, in the turn in which the request came. False: nothing was done, `#lookup` decides about everything else. */
  #lookupNow({ id, keys }: LookupMessage): boolean {
    const { backend, keyBytes } = this.#options;
    const count = keys.length / keyBytes;
    const mayAsk = Number.isInteger(count) && count <= backend.manifest.limits.batchKeysMax && backend.state === "open";
    if (!mayAsk || this.#aborted || this.#requests.has(id)) return false;
    const startedMs = performance.now();
    const states = backend.lookupNow({ bytes: keys, stride: keyBytes, count });
    if (states === undefined) return false;
    this.#options.send({ t: "states", id, states });
    this.#options.metrics.answered("lookup", count, (performance.now() - startedMs) / 1000, states);
    return true;
  }

  async #lookup({ id, keys }: LookupMessage): Promise<void> {
    try {
      const batch = this.#keys(keys, "lookup", LOOKUP_KEYS_MAX);
      const states = await this.#lookupStates(batch);
      this.#ended(id, "lookup", batch.count, states);
      this.#options.send({ t: "states", id, states });
    } catch (thrown) {
      this.#failed(id, "lookup", thrown);
    }
    this.#checkIdle();
  }

  async #lookupStates(batch: KeyBatch): Promise<Uint8Array> {
    const { backend } = this.#options;
    const { batchKeysMax } = backend.manifest.limits;
    const options = { signal: this.#lookups.signal };
    if (batch.count <= batchKeysMax) return backend.lookup(batch, options);
    const states = new Uint8Array(batch.count);
    for (let from = 0; from < batch.count; from += batchKeysMax) {
      const count = Math.min(batchKeysMax, batch.count - from);
      const bytes = batch.bytes.subarray(from * batch.stride, (from + count) * batch.stride);
      states.set(await backend.lookup({ bytes, stride: batch.stride, count }, options), from);
    }
    return states;
  }

  async #transfer(message: StoreMessage | LoadMessage): Promise<void> {
    const { id, t: operation, slots } = message;
    const { backend, region, batchKeysMax, deadlineMs } = this.#options;
    const request = this.#requests.get(id) as Request;
    try {
      const keys = this.#keys(message.keys, operation, batchKeysMax);
      const options = { signal: (request.controller as AbortController).signal, deadlineMs };
      const result = await backend[operation]({ keys, region, slots }, options);
      this.#ended(id, operation, keys.count, result);
      const us = Math.round((performance.now() - request.startedMs) * 1000);
      this.#options.send({ t: "done", id, outcomes: result.outcomes, codes: result.codes, us });
    } catch (thrown) {
      this.#failed(id, operation, thrown);
    }
    this.#checkIdle();
  }

  #keys(bytes: Uint8Array, operation: Operation, countMax: number): KeyBatch {
    const { keyBytes } = this.#options;
    const count = bytes.length / keyBytes;
    if (Number.isInteger(count) && count <= countMax) return { bytes, stride: keyBytes, count };
    throw new KvferryError(
      "INVALID_ARGUMENT",
      `${operation}: 'keys' has ${bytes.length} bytes; it takes up to ${countMax} keys of ${keyBytes}`,
      {
        operation,
        context: { field: "keys" },
      },
    );
  }

  #ended(id: number, operation: Operation, keys: number, result: Uint8Array | BatchResult): void {
    const request = this.#take(id);
    this.#options.metrics.answered(operation, keys, (performance.now() - request.startedMs) / 1000, result);
  }

  #failed(id: number, operation: Operation, thrown: unknown): void {
    this.#take(id);
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
    this.#options.metrics.failed(operation, error.code satisfies ErrorCode);
    this.#options.send(errorMessage(error, id));
  }

  #take(id: number): Request {
    const request = this.#requests.get(id) as Request;
    this.#requests.delete(id);
    this.#bytes -= request.bytes;
    return request;
  }

  /** After the answer was sent: who waits for idleness may close the stream. */
  #checkIdle(): void {
    if (this.#requests.size > 0) return;
    for (const callback of this.#idleCallbacks.splice(0)) callback();
  }
}

import type { KeyBatch, OffloadBackend } from "@kvferry/core";
import { LOOKUP_KEYS_MAX, type LookupMessage, type ServerMessage } from "@kvferry/protocol";
import type { ServerMetrics } from "../metrics.js";
import type { Answer, RequestBook, Work } from "./request-book.js";

export interface LookupsOptions {
  readonly backend: OffloadBackend;
  readonly keyBytes: number;
  readonly book: RequestBook;
  readonly metrics: ServerMetrics;
  send(message: ServerMessage): void;
}

/** LOOKUP of a session. */
export class Lookups {
  readonly #options: LookupsOptions;

  constructor(options: LookupsOptions) {
    this.#options = options;
  }

  handle(message: LookupMessage): void {
    if (this.#answerNow(message)) return;
    const { id, keys } = message;
    const arrival = { id, operation: "lookup", payloadBytes: keys.byteLength } as const;
    this.#options.book.run(arrival, (work) => this.#lookup(message, work));
  }

  /** Answers from memory, in the turn in which the request came. False: nothing was done, `#lookup` decides about everything else. */
  #answerNow({ id, keys }: LookupMessage): boolean {
    const { backend, keyBytes, book } = this.#options;
    const count = keys.length / keyBytes;
    const mayAsk = Number.isInteger(count) && count <= backend.manifest.limits.batchKeysMax && backend.state === "open";
    if (!mayAsk || book.isAborted || book.has(id)) return false;
    const startedMs = performance.now();
    const states = backend.lookupNow({ bytes: keys, stride: keyBytes, count });
    if (states === undefined) return false;
    this.#options.send({ t: "states", id, states });
    this.#options.metrics.answered("lookup", count, (performance.now() - startedMs) / 1000, states);
    return true;
  }

  async #lookup({ id, keys }: LookupMessage, { signal }: Work): Promise<Answer> {
    const batch = this.#options.book.keys(keys, "lookup", LOOKUP_KEYS_MAX);
    const states = await this.#states(batch, signal);
    return { message: { t: "states", id, states }, keys: batch.count, result: states };
  }

  async #states(batch: KeyBatch, signal: AbortSignal): Promise<Uint8Array> {
    const { backend } = this.#options;
    const { batchKeysMax } = backend.manifest.limits;
    if (batch.count <= batchKeysMax) return backend.lookup(batch, { signal });
    const states = new Uint8Array(batch.count);
    for (let from = 0; from < batch.count; from += batchKeysMax) {
      const count = Math.min(batchKeysMax, batch.count - from);
      const bytes = batch.bytes.subarray(from * batch.stride, (from + count) * batch.stride);
      states.set(await backend.lookup({ bytes, stride: batch.stride, count }, { signal }), from);
    }
    return states;
  }
}

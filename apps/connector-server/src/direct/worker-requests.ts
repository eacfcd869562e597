import { type BatchResult, type KeyBatch, KvferryError } from "@kvferry/core";
import type { Device } from "@kvferry/native";
import type { DirectWorker, GatherMessage, RequestMessage, ScatterMessage } from "@kvferry/protocol";
import { type Answer, RequestBook, type RequestBookOptions, type Work } from "../requests/request-book.js";
import { notOfThisConnection, type SessionRequests } from "../requests/session-requests.js";
import type { DirectEngine } from "./engine.js";

export interface WorkerRequestsOptions extends RequestBookOptions {
  readonly engine: DirectEngine;
  readonly worker: DirectWorker;
  readonly device: Device;
  readonly batchKeysMax: number;
}

/** The requests of a worker of an engine in direct mode. */
export class WorkerRequests implements SessionRequests {
  readonly book: RequestBook;
  readonly #options: WorkerRequestsOptions;

  constructor(options: WorkerRequestsOptions) {
    this.#options = options;
    this.book = new RequestBook(options);
  }

  handle(message: RequestMessage): void {
    switch (message.t) {
      case "gather":
      case "scatter": {
        const { id, t: operation, keys, groups, blocks } = message;
        const payloadBytes = keys.byteLength + groups.byteLength + blocks.byteLength;
        this.book.run({ id, operation, payloadBytes }, (work) => this.#copy(message, work));
        return;
      }
      default:
        throw notOfThisConnection(message);
    }
  }

  async #copy(message: GatherMessage | ScatterMessage, { signal, us }: Work): Promise<Answer> {
    const keys = this.book.keys(message.keys, message.t, this.#options.batchKeysMax);
    this.#check(message, keys);
    const result = await this.#copied(message, keys, signal);
    const { outcomes, codes } = result;
    return { message: { t: "done", id: message.id, outcomes, codes, us: us() }, keys: keys.count, result };
  }

  async #copied(message: GatherMessage | ScatterMessage, keys: KeyBatch, signal: AbortSignal): Promise<BatchResult> {
    const { engine, worker, device } = this.#options;
    const pages = { groups: message.groups, blocks: message.blocks };
    if (keys.count === 0) return { outcomes: new Uint8Array(0), codes: new Uint8Array(0) };
    if (message.t === "scatter") return engine.scatter(keys, worker.part, device, pages, signal);
    return engine.gather({ ticket: message.ticket, keys, part: worker.part, device, pages }, signal);
  }

  /** The numbers in `groups` and `blocks` are the device's to check.
   * @throws KvferryError INVALID_ARGUMENT with `context.field`. */
  #check({ t, groups, blocks }: GatherMessage | ScatterMessage, { count }: KeyBatch): void {
    const { blocksPerChunk, stores } = this.#options.worker;
    if (t === "gather" && !stores) throw invalid(t, "t", "is gather, and HELLO said that this worker does not store");
    if (groups.length !== count) throw invalid(t, "groups", `has ${groups.length} numbers for ${count} keys`);
    if (blocks.length !== count * blocksPerChunk) {
      throw invalid(t, "blocks", `has ${blocks.length} numbers for ${count} keys of ${blocksPerChunk} blocks`);
    }
  }
}

function invalid(operation: string, field: string, reason: string): KvferryError {
  return new KvferryError("INVALID_ARGUMENT", `${operation}: '${field}' ${reason}`, { operation, context: { field } });
}

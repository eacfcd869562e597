import type { OffloadBackend, Region } from "@kvferry/core";
import type { LoadMessage, RequestMessage, StoreMessage } from "@kvferry/protocol";
import { Lookups } from "./lookups.js";
import { type Answer, RequestBook, type RequestBookOptions, type Work } from "./request-book.js";
import { notOfThisConnection, type SessionRequests } from "./session-requests.js";

export interface TierRequestsOptions extends RequestBookOptions {
  readonly backend: OffloadBackend;
  /** Ms that a store or load may take. */
  readonly deadlineMs: number;
  readonly region: Region;
  readonly batchKeysMax: number;
}

/** The requests of an engine with a region of its own: checks them, hands them to the backend, answers. */
export class TierRequests implements SessionRequests {
  readonly book: RequestBook;
  readonly #options: TierRequestsOptions;
  readonly #lookups: Lookups;

  constructor(options: TierRequestsOptions) {
    this.#options = options;
    this.book = new RequestBook(options);
    const { backend, keyBytes, metrics, send } = options;
    this.#lookups = new Lookups({ backend, keyBytes, metrics, send, book: this.book });
  }

  handle(message: RequestMessage): void {
    switch (message.t) {
      case "lookup":
        this.#lookups.handle(message);
        return;
      case "store":
      case "load": {
        const payloadBytes = message.keys.byteLength + message.slots.byteLength;
        this.book.run({ id: message.id, operation: message.t, payloadBytes }, (work) => this.#transfer(message, work));
        return;
      }
      default:
        throw notOfThisConnection(message);
    }
  }

  async #transfer(message: StoreMessage | LoadMessage, { signal, us }: Work): Promise<Answer> {
    const { id, t: operation, slots } = message;
    const { backend, region, batchKeysMax, deadlineMs } = this.#options;
    const keys = this.book.keys(message.keys, operation, batchKeysMax);
    const result = await backend[operation]({ keys, region, slots }, { signal, deadlineMs });
    const { outcomes, codes } = result;
    return { message: { t: "done", id, outcomes, codes, us: us() }, keys: keys.count, result };
  }
}

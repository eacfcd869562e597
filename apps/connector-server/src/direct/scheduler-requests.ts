import { type HoldMessage, LOOKUP_KEYS_MAX, type RequestMessage } from "@kvferry/protocol";
import { Lookups } from "../requests/lookups.js";
import { type Answer, RequestBook, type RequestBookOptions, type Work } from "../requests/request-book.js";
import { notOfThisConnection, type SessionRequests } from "../requests/session-requests.js";
import type { DirectEngine } from "./engine.js";

export interface SchedulerRequestsOptions extends RequestBookOptions {
  readonly engine: DirectEngine;
  /** That the engine has. */
  readonly workers: number;
  readonly batchKeysMax: number;
}

/** The requests of the scheduler of an engine in direct mode. */
export class SchedulerRequests implements SessionRequests {
  readonly book: RequestBook;
  readonly #options: SchedulerRequestsOptions;
  readonly #lookups: Lookups;

  constructor(options: SchedulerRequestsOptions) {
    this.#options = options;
    this.book = new RequestBook(options);
    const { engine, keyBytes, metrics, send } = options;
    this.#lookups = new Lookups({ backend: engine.backend, keyBytes, metrics, send, book: this.book });
  }

  handle(message: RequestMessage): void {
    switch (message.t) {
      case "lookup":
        this.#lookups.handle(message);
        return;
      case "hold": {
        const { id, keys } = message;
        this.book.run({ id, operation: "hold", payloadBytes: keys.byteLength }, (work) => this.#hold(message, work));
        return;
      }
      case "release":
        // nobody waits for an answer: keys that do not fit are a mistake that only the end of the connection can tell of
        this.#options.engine.release(this.book.keys(message.keys, "hold", LOOKUP_KEYS_MAX));
        return;
      default:
        throw notOfThisConnection(message);
    }
  }

  async #hold(message: HoldMessage, { signal, us }: Work): Promise<Answer> {
    const { engine, workers, batchKeysMax } = this.#options;
    const keys = this.book.keys(message.keys, "hold", batchKeysMax);
    const { result, offsets } = await engine.hold(keys, workers, signal);
    const { outcomes, codes } = result;
    return {
      message: { t: "held", id: message.id, outcomes, codes, offsets, us: us() },
      keys: keys.count,
      result,
      undelivered: () => engine.giveBack(keys, result),
    };
  }
}

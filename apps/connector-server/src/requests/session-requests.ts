import { KvferryError } from "@kvferry/core";
import type { RequestMessage } from "@kvferry/protocol";
import type { RequestBook } from "./request-book.js";

/** The requests of one session. */
export interface SessionRequests {
  readonly book: RequestBook;
  /** @throws KvferryError PROTOCOL for what ends the connection; all else is answered. */
  handle(message: RequestMessage): void;
}

export function notOfThisConnection({ t }: RequestMessage): KvferryError {
  return new KvferryError("PROTOCOL", `'${t}' is no request of this kind of connection`, { context: { field: "t" } });
}

import { KvferryError } from "@kvferry/core";
import type { RequestMessage } from "@kvferry/protocol";
import type { RequestBook } from "./request-book.js";

/** The requests of one session. */
export interface SessionRequests {
  readonly book: RequestBook;
  /** What `handleRequest` leaves to this kind of session.
   * @throws KvferryError PROTOCOL for what ends the connection; all else is answered. */
  handle(message: RequestMessage): void;
}

/** Handles a request: those that all kinds of sessions have alike here, the others by the session's own.
 * @throws as `SessionRequests.handle`. */
export function handleRequest(requests: SessionRequests, message: RequestMessage): void {
  if (message.t === "ping") requests.book.pong(message.id);
  else if (message.t === "cancel") requests.book.cancel(message.target);
  else requests.handle(message);
}

export function notOfThisConnection({ t }: RequestMessage): KvferryError {
  return new KvferryError("PROTOCOL", `'${t}' is no request of this kind of connection`, { context: { field: "t" } });
}

/** How an AbortSignal ends a batch of the addon: what has not begun of it is skipped with the number of an error code. */
import { setMaxListeners } from "node:events";
import type { BlockResult } from "./types.js";

/** Numbers of core's ERROR_CODES. */
export const CLOSED = 5;
const ABORTED = 6;
const DEADLINE = 7;

/** What takes batches under a ticket. */
export interface Cancels {
  /** Ends what has not begun of the batch that was given this ticket; `code` is the number of an error code. */
  cancel(ticket: number, code: number): void;
}

/** The same decision as core's `abortCode`. */
function abortNumber(signal: AbortSignal): number {
  const reason = signal.reason as { name?: unknown; code?: unknown } | undefined;
  return reason?.name === "TimeoutError" || reason?.code === "DEADLINE" ? DEADLINE : ABORTED;
}

export function abortError(signal: AbortSignal): Error {
  const code = abortNumber(signal) === DEADLINE ? "DEADLINE" : "ABORTED";
  return Object.assign(new Error("the call was aborted", { cause: signal.reason }), { code, context: {} });
}

/** All FAILED; `code` is the number of an error code. */
export function failedResult(count: number, code: number): BlockResult {
  return { outcomes: new Uint8Array(count), codes: new Uint8Array(count).fill(code) };
}

export function abortedResult(count: number, signal: AbortSignal): BlockResult {
  return failedResult(count, abortNumber(signal));
}

let lastTicket = 0;

/** A number that stands for one call. */
export function newTicket(): number {
  lastTicket = lastTicket === 0xffff_ffff ? 1 : lastTicket + 1;
  return lastTicket;
}

/** Runs a call of the addon under a ticket that the signal cancels. Ticket 0 stands for calls that nothing can cancel. */
export async function cancellable<T>(
  engine: Cancels,
  signal: AbortSignal | undefined,
  call: (ticket: number) => Promise<T>,
  ticket: number = signal === undefined ? 0 : newTicket(),
): Promise<T> {
  if (signal === undefined) return call(ticket);
  const cancel = (): void => engine.cancel(ticket, abortNumber(signal));
  setMaxListeners(0, signal); // a request may have hundreds of calls under way
  signal.addEventListener("abort", cancel, { once: true });
  try {
    return await call(ticket);
  } finally {
    signal.removeEventListener("abort", cancel);
  }
}

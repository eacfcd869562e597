import { KvferryError } from "./errors.js";

export type Priority = "load" | "store";

/** Options of every call. */
export interface CallOptions {
  /** Ends the call early: what has not begun ends as FAILED(ABORTED), what is under way is finished, unless abandonable.
   * A lookup that is cut short rejects with the code, for it has no outcome a key. */
  readonly signal?: AbortSignal | undefined;
  /** Ms from now after which the call ends the same way with the code DEADLINE. */
  readonly deadlineMs?: number | undefined;
  /** Loads go before stores; default: what the call is. */
  readonly priority?: Priority | undefined;
}

/** What an author's `_` methods receive. */
export interface AuthorOptions {
  /** Aborted by the caller or by the deadline; `abortCode(signal)` says which. Never aborted when the method is entered. A method
   * that has ended all its I/O may simply throw the signal's reason: every key then ends as FAILED with its code. */
  readonly signal: AbortSignal | undefined;
  readonly priority: Priority;
}

/** DEADLINE or ABORTED: why a signal that is aborted was. */
export function abortCode(signal: AbortSignal): "DEADLINE" | "ABORTED" {
  const reason: unknown = signal.reason;
  if (reason instanceof KvferryError && reason.code === "DEADLINE") return "DEADLINE";
  return (reason as { name?: unknown } | undefined)?.name === "TimeoutError" ? "DEADLINE" : "ABORTED";
}

/** The error of a call that its signal cut short. */
export function abortError(signal: AbortSignal, operation: string): KvferryError {
  const { reason } = signal;
  if (reason instanceof KvferryError) return reason;
  const code = abortCode(signal);
  const words = code === "DEADLINE" ? "its time is over" : "the caller ended it";
  return new KvferryError(code, `${operation}: ${words}`, { operation, cause: reason });
}

/** A signal for the time of one call, and the way to let go of it. */
export interface CallLimit {
  readonly signal: AbortSignal | undefined;
  release(): void;
}

const TIMER_MS_MAX = 2 ** 31 - 1;
const unlimited: CallLimit = Object.freeze({ signal: undefined, release() {} });

/** One signal out of the caller's signal and a deadline.
 * @throws KvferryError INVALID_ARGUMENT for a deadline that is negative or no number. */
export function callLimit({ signal, deadlineMs }: CallOptions, operation: string): CallLimit {
  if (deadlineMs === undefined) return signal === undefined ? unlimited : { signal, release() {} };
  if (!(deadlineMs >= 0)) {
    throw new KvferryError("INVALID_ARGUMENT", `${operation}: deadlineMs must be 0 or more, got ${deadlineMs}`, {
      operation,
      context: { field: "deadlineMs" },
    });
  }
  const controller = new AbortController();
  const onAbort = (): void => controller.abort(signal?.reason);
  const expire = (): void =>
    controller.abort(
      new KvferryError("DEADLINE", `${operation}: the deadline of ${deadlineMs} ms has passed`, { operation }),
    );
  if (signal?.aborted) onAbort();
  else if (deadlineMs === 0) expire();
  if (controller.signal.aborted) return { signal: controller.signal, release() {} };
  signal?.addEventListener("abort", onAbort, { once: true });
  const timer = setTimeout(expire, Math.min(deadlineMs, TIMER_MS_MAX));
  return {
    signal: controller.signal,
    release() {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    },
  };
}

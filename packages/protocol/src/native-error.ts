import { ERROR_CODES, type ErrorCode, KvferryError, toKvferryError } from "@kvferry/core";

/** What @kvferry/native threw: an Error whose `code` is one of ours and whose `context` has path and errno. Anything else as by
 * `toKvferryError`. */
export function fromNativeError(thrown: unknown, operation: string): KvferryError {
  const error = thrown as { code?: unknown; message?: unknown; context?: unknown } | null | undefined;
  if (thrown instanceof KvferryError || typeof error?.code !== "string" || !Object.hasOwn(ERROR_CODES, error.code)) {
    return toKvferryError(thrown, operation);
  }
  return new KvferryError(error.code as ErrorCode, String(error.message), {
    operation,
    context: { ...(error.context as Record<string, unknown> | undefined) },
    cause: thrown,
  });
}

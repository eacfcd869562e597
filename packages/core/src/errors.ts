/** How an error behaves in time: `permanent` fails again until someone changes something, `temporary` may pass
 * when tried again, `persistent` was temporary and stayed after the retries that were allowed. */
export type ErrorStatus = "permanent" | "temporary" | "persistent";

/** Every code with its number on the wire and in `BatchResult.codes`, and its status. Numbers never change or get reused.
 * docs/errors.md says what each means and what to do. */
export const ERROR_CODES = {
  INTERNAL: { number: 1, status: "permanent" },
  INVALID_ARGUMENT: { number: 2, status: "permanent" },
  UNSUPPORTED: { number: 3, status: "permanent" },
  NOT_OPEN: { number: 4, status: "permanent" },
  CLOSED: { number: 5, status: "permanent" },
  ABORTED: { number: 6, status: "temporary" },
  DEADLINE: { number: 7, status: "temporary" },
  BUSY: { number: 8, status: "temporary" },
  NO_SPACE: { number: 9, status: "permanent" },
  PERMISSION: { number: 10, status: "permanent" },
  READ_ONLY: { number: 11, status: "permanent" },
  IO: { number: 12, status: "temporary" },
  STALE: { number: 13, status: "temporary" },
  UNAVAILABLE: { number: 14, status: "temporary" },
  REGION_GONE: { number: 15, status: "permanent" },
  NAMESPACE_MISMATCH: { number: 16, status: "permanent" },
  CONFIG_INVALID: { number: 17, status: "permanent" },
  PROTOCOL: { number: 18, status: "permanent" },
  TOO_MANY_FILES: { number: 19, status: "temporary" },
  CORRUPT: { number: 20, status: "permanent" },
  DEVICE_LOST: { number: 21, status: "permanent" },
  DEVICE_FAILED: { number: 22, status: "permanent" },
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

const facts: Readonly<Record<ErrorCode, { readonly number: number; readonly status: ErrorStatus }>> = ERROR_CODES;

const codeByNumber: readonly (ErrorCode | undefined)[] = (() => {
  const table: (ErrorCode | undefined)[] = [];
  for (const [code, { number }] of Object.entries(facts)) table[number] = code as ErrorCode;
  return table;
})();

/** The number of a code on the wire; 0 is "no error". */
export function errorNumber(code: ErrorCode): number {
  return ERROR_CODES[code].number;
}

/** The code of a wire number. An unknown number, such as a newer peer may send, is INTERNAL. */
export function errorCodeOf(number: number): ErrorCode {
  return codeByNumber[number] ?? "INTERNAL";
}

export interface KvferryErrorOptions {
  /** What was being done: "store", "open", "config" … */
  operation?: string;
  /** Facts for whoever reads the log: path, field, errno. Never secrets. */
  context?: Record<string, unknown>;
  cause?: unknown;
  /** Overrides the code's usual status. */
  status?: ErrorStatus;
}

/** The only error class that kvferry throws. `code` is stable; the message is for people and may change. */
export class KvferryError extends Error {
  override readonly name: string = "KvferryError";
  readonly code: ErrorCode;
  readonly status: ErrorStatus;
  readonly operation: string | undefined;
  readonly context: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, options: KvferryErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.status = options.status ?? ERROR_CODES[code].status;
    this.operation = options.operation;
    this.context = Object.freeze({ ...options.context });
  }

  /** The same error after retries did not help. */
  asPersistent(): KvferryError {
    return new KvferryError(this.code, this.message, {
      ...(this.operation === undefined ? {} : { operation: this.operation }),
      context: { ...this.context },
      cause: this.cause ?? this,
      status: "persistent",
    });
  }
}

const codeByErrno: Readonly<Record<string, ErrorCode>> = {
  ENOSPC: "NO_SPACE",
  EDQUOT: "NO_SPACE",
  EFBIG: "NO_SPACE",
  EACCES: "PERMISSION",
  EPERM: "PERMISSION",
  EROFS: "READ_ONLY",
  EIO: "IO",
  EREMOTEIO: "IO", // what an NFS server's own fault becomes
  ESTALE: "STALE",
  EMFILE: "TOO_MANY_FILES",
  ENFILE: "TOO_MANY_FILES",
  EINVAL: "INVALID_ARGUMENT",
  ENAMETOOLONG: "INVALID_ARGUMENT",
  ENOTSUP: "UNSUPPORTED",
  EOPNOTSUPP: "UNSUPPORTED",
  ENOSYS: "UNSUPPORTED",
  EAGAIN: "BUSY",
  EBUSY: "BUSY",
  ETIMEDOUT: "DEADLINE",
  ECONNREFUSED: "UNAVAILABLE",
  ECONNRESET: "UNAVAILABLE",
  EPIPE: "UNAVAILABLE",
  ENOTCONN: "UNAVAILABLE",
  EHOSTDOWN: "UNAVAILABLE",
  EHOSTUNREACH: "UNAVAILABLE",
};

const ESTALE_ERRNO = -116; // Node has no name for it: "Unknown system error -116"

/** Anything thrown, as a KvferryError: errors that carry one of our codes (the data plane's) keep it and their `context`, system errors
 * go by their errno, everything unknown is INTERNAL. */
export function toKvferryError(
  thrown: unknown,
  operation: string,
  context: Record<string, unknown> = {},
): KvferryError {
  if (thrown instanceof KvferryError) return thrown;
  const error = thrown as
    | Partial<Record<"code" | "context" | "errno" | "message" | "name" | "path", unknown>>
    | undefined;
  const facts = typeof error?.context === "object" ? error.context : {};
  const path = typeof error?.path === "string" ? { path: error.path } : {};
  const details = { operation, context: { ...context, ...facts, ...path }, cause: thrown };
  const message = typeof error?.message === "string" ? error.message : String(thrown);
  if (error?.name === "AbortError") return new KvferryError("ABORTED", message, details);
  if (error?.name === "TimeoutError") return new KvferryError("DEADLINE", message, details);
  if (error?.errno === ESTALE_ERRNO) return new KvferryError("STALE", message, details);
  if (typeof error?.code !== "string") return new KvferryError("INTERNAL", message, details);
  if (Object.hasOwn(ERROR_CODES, error.code)) return new KvferryError(error.code as ErrorCode, message, details);
  return new KvferryError(codeByErrno[error.code] ?? "INTERNAL", message, details);
}

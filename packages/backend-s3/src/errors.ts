import { type ErrorCode, KvferryError, toKvferryError } from "@kvferry/core";

/** What S3's own code comes to: our code, the field to look at, and what helps. */
interface Meaning {
  readonly code: ErrorCode;
  readonly field?: string;
  readonly fix: string;
}

const passes = (code: ErrorCode): Meaning => ({ code, fix: "it may pass" });

const MEANINGS: Readonly<Record<string, Meaning>> = {
  NoSuchBucket: {
    code: "CONFIG_INVALID",
    field: "bucket",
    fix: "there is no such bucket: make it, or correct 'bucket'",
  },
  InvalidBucketName: { code: "CONFIG_INVALID", field: "bucket", fix: "correct 'bucket'" },
  PermanentRedirect: {
    code: "CONFIG_INVALID",
    field: "region",
    fix: "the bucket is in another region: correct 'region'",
  },
  AuthorizationHeaderMalformed: {
    ...{ code: "CONFIG_INVALID", field: "region" },
    fix: "the storage expects another region: correct 'region'",
  },
  IllegalLocationConstraintException: { code: "CONFIG_INVALID", field: "region", fix: "correct 'region'" },
  RequestTimeTooSkewed: {
    code: "PERMISSION",
    fix: "the clock of this host is wrong by more than the storage allows (15 minutes): set it, and keep it right with NTP",
  },
  RequestExpired: { code: "PERMISSION", fix: "the clock of this host is wrong: set it, and keep it right with NTP" },
  InvalidAccessKeyId: {
    code: "PERMISSION",
    fix: "the storage does not know the access key: check AWS_ACCESS_KEY_ID, or the profile or role in use",
  },
  SignatureDoesNotMatch: {
    code: "PERMISSION",
    fix: "the secret does not belong to the access key: check AWS_SECRET_ACCESS_KEY, or the profile in use",
  },
  ExpiredToken: { code: "PERMISSION", fix: "the session token has expired: renew the credentials" },
  InvalidToken: { code: "PERMISSION", fix: "the session token is not valid: check AWS_SESSION_TOKEN" },
  AccessDenied: {
    code: "PERMISSION",
    fix: "these credentials may not do this: docs/s3.md has the policy that is needed",
  },
  AllAccessDisabled: { code: "PERMISSION", fix: "the bucket is disabled" },
  CredentialsProviderError: {
    code: "PERMISSION",
    fix: "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the host a role",
  },
  "KMS.NotFoundException": { code: "CONFIG_INVALID", field: "sse.kmsKeyId", fix: "there is no such key: correct it" },
  "KMS.DisabledException": { code: "CONFIG_INVALID", field: "sse.kmsKeyId", fix: "the key is disabled" },
  NotImplemented: { code: "UNSUPPORTED", fix: "this storage does not have it" },
  MethodNotAllowed: { code: "UNSUPPORTED", fix: "this storage does not allow it" },
  InvalidObjectState: {
    code: "UNSUPPORTED",
    fix: "the object is archived: let no lifecycle rule move blocks to an archive",
  },
  QuotaExceeded: { code: "NO_SPACE", fix: "a quota is used up" },
  InsufficientStorage: { code: "NO_SPACE", fix: "the storage is full" },
  XMinioStorageFull: { code: "NO_SPACE", fix: "the storage is full" },
  XMinioAdminBucketQuotaExceeded: { code: "NO_SPACE", fix: "the bucket's quota is used up" },
  SlowDown: passes("BUSY"),
  SlowDownRead: passes("BUSY"),
  SlowDownWrite: passes("BUSY"),
  TooManyRequests: passes("BUSY"),
  Throttling: passes("BUSY"),
  ThrottlingException: passes("BUSY"),
  ServerBusy: passes("BUSY"),
  OperationAborted: passes("BUSY"),
  ConditionalRequestConflict: passes("BUSY"),
  BadDigest: passes("IO"),
  InvalidDigest: passes("IO"),
  XAmzContentChecksumMismatch: passes("IO"),
  XAmzContentSHA256Mismatch: passes("IO"),
  IncompleteBody: passes("IO"),
  InternalError: passes("IO"),
  RequestTimeout: passes("UNAVAILABLE"),
  ServiceUnavailable: passes("UNAVAILABLE"),
};

const BY_STATUS: Readonly<Record<number, Meaning>> = {
  301: MEANINGS.PermanentRedirect as Meaning,
  307: MEANINGS.PermanentRedirect as Meaning,
  401: MEANINGS.AccessDenied as Meaning,
  403: MEANINGS.AccessDenied as Meaning,
  405: MEANINGS.MethodNotAllowed as Meaning,
  408: passes("UNAVAILABLE"),
  409: passes("BUSY"),
  429: passes("BUSY"),
  500: passes("IO"),
  501: MEANINGS.NotImplemented as Meaning,
  507: { code: "NO_SPACE", fix: "the storage is full" },
};

const NETWORK: Readonly<Record<string, string>> = {
  ECONNREFUSED: "nobody listens there",
  ENOTFOUND: "its name is not known",
  EAI_AGAIN: "its name cannot be looked up now",
  ECONNRESET: "the connection was cut",
  EPIPE: "the connection was cut",
  ETIMEDOUT: "it does not answer",
  EHOSTUNREACH: "there is no way to it",
  ENETUNREACH: "there is no way to it",
  EADDRNOTAVAIL: "no local port is free",
};

/** What the SDK and Node throw, as far as it is read here. */
interface Thrown {
  readonly name?: unknown;
  readonly code?: unknown;
  readonly message?: unknown;
  readonly Region?: unknown;
  readonly $metadata?: { readonly httpStatusCode?: number; readonly requestId?: string };
  readonly $response?: { readonly headers?: Readonly<Record<string, string>> };
}

/** The HTTP status of an answer that was an error, or undefined where there was no answer. */
export function httpStatus(thrown: unknown): number | undefined {
  return (thrown as Thrown | undefined)?.$metadata?.httpStatusCode;
}

/** S3's code, "NoSuchKey" for one; or the SDK's, or Node's. */
export function s3Code(thrown: unknown): string {
  const { name, code } = (thrown ?? {}) as Thrown;
  if (typeof name === "string" && !["Error", "KvferryError", "Unknown", "UnknownError", "TypeError"].includes(name))
    return name;
  return typeof code === "string" ? code : "";
}

/**
 * What was thrown, as a KvferryError. Nothing of the SDK's error is kept but S3's code, status, request id and region: it holds
 * headers, and what S3 answers to a wrong signature has the key and the string that was signed.
 */
export function toS3Error(thrown: unknown, operation: string, facts: Record<string, unknown>): KvferryError {
  if (thrown instanceof KvferryError) return thrown;
  const { message, $metadata } = (thrown ?? {}) as Thrown;
  const status = httpStatus(thrown);
  const code = s3Code(thrown);
  const context: Record<string, unknown> = { ...facts };
  if (status !== undefined) context.httpStatus = status;
  if (code !== "") context.s3Code = code;
  if ($metadata?.requestId !== undefined) context.requestId = $metadata.requestId;
  const answer = status === undefined ? "" : ` with ${status}${code === "" ? "" : ` ${code}`}`;
  const meaning = MEANINGS[code] ?? (status === undefined ? undefined : meaningOfStatus(status));
  if (meaning !== undefined) {
    if (meaning.field !== undefined) context.field = meaning.field;
    const region = meaning.field === "region" ? expectedRegion(thrown as Thrown) : undefined;
    const place = region === undefined ? "" : `; it names ${region}`;
    const answered = status === undefined ? "" : `the storage answered${answer}: `;
    return new KvferryError(meaning.code, `s3: ${operation}: ${answered}${meaning.fix}${place}`, {
      operation,
      context,
    });
  }
  return networkError(code, message, operation, context, thrown);
}

function meaningOfStatus(status: number): Meaning {
  return (
    BY_STATUS[status] ?? (status >= 500 ? passes("UNAVAILABLE") : { code: "INTERNAL", fix: "this was not expected" })
  );
}

function networkError(
  code: string,
  message: unknown,
  operation: string,
  context: Record<string, unknown>,
  thrown: unknown,
): KvferryError {
  const words = NETWORK[code];
  if (words !== undefined) {
    const text = `s3: ${operation}: the storage cannot be reached: ${words} (${code}); check 'endpoint' and the network`;
    return new KvferryError("UNAVAILABLE", text, { operation, context: { ...context, field: "endpoint" } });
  }
  if (/^(CERT_|ERR_TLS|ERR_SSL|EPROTO|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO)/.test(code)) {
    const text = `s3: ${operation}: TLS with the storage failed (${code}); check 'endpoint', or trust its authority by NODE_EXTRA_CA_CERTS`;
    return new KvferryError("CONFIG_INVALID", text, { operation, context: { ...context, field: "endpoint" } });
  }
  if (code.startsWith("HPE_")) {
    return new KvferryError("IO", `s3: ${operation}: what came is no HTTP (${code})`, { operation, context });
  }
  if (/region is missing/i.test(String(message))) {
    const text = "s3: no region is known: set 'region' or AWS_REGION";
    return new KvferryError("CONFIG_INVALID", text, { operation, context: { ...context, field: "region" } });
  }
  const { code: known } = toKvferryError(thrown, operation);
  return new KvferryError(known, `s3: ${operation}: ${String(message)}`, { operation, context });
}

function expectedRegion({ Region, $response }: Thrown): string | undefined {
  const region = Region ?? $response?.headers?.["x-amz-bucket-region"];
  return typeof region === "string" && /^[A-Za-z0-9-]{1,64}$/.test(region) ? region : undefined;
}

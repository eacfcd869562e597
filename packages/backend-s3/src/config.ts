import { DEFAULT_POLICY, KvferryError, type PolicyName, policyNamed } from "@kvferry/core";

/** Encryption by the storage, asked for with every block. Without it, what the bucket prescribes applies. */
export interface S3Encryption {
  /** `AES256`: keys of S3; `aws:kms`: keys of KMS. */
  readonly type: "AES256" | "aws:kms";
  /** For `aws:kms`: the key's id, alias or ARN. Default: the account's own key for S3. */
  readonly kmsKeyId?: string;
}

/** Credentials are no setting: they come from the SDK's default chain (environment, profile, web identity, instance role). */
export interface S3Config {
  readonly bucket: string;
  /** Before all object keys, without slashes at its ends; default "": the whole bucket. */
  readonly prefix?: string;
  /** Default: the SDK's own (`AWS_REGION`, the profile). */
  readonly region?: string;
  /** URL of a storage that is not AWS. Default: AWS. */
  readonly endpoint?: string;
  /** `<endpoint>/<bucket>` instead of `<bucket>.<endpoint>`; default true where an endpoint is given. */
  readonly forcePathStyle?: boolean;
  /** Bytes that all blocks of all namespaces below the prefix may take, whoever stores them: all servers that have it configured hold this bound
   * together, and evict to stay below it (docs/capacity.md). Needs a storage that honours If-None-Match. Default: no bound, and nothing is evicted. */
  readonly capacityBytes?: number;
  /** Objects that there may be, besides. Needs `capacityBytes`. */
  readonly objectsMax?: number;
  /** Which blocks are evicted first: a name of core's POLICIES. Needs `capacityBytes`. */
  readonly policy?: PolicyName;
  /** Bytes that the blocks of a tenant may take, by the namespace's tenant; who is not named shares the capacity alone. Needs `capacityBytes`. */
  readonly quotas?: Readonly<Record<string, number>>;
  /** Requests on the way at once, at most; default 64. An eighth of them is never given to stores. */
  readonly socketsMax?: number;
  /** Blocks under way and waiting, at most; a batch beyond it is refused with BUSY. Default 65,536. */
  readonly queueBlocksMax?: number;
  /** Objects of at least so many bytes are uploaded in parallel parts; default 32 MiB. */
  readonly multipartFromBytes?: number;
  /** Objects of at least so many bytes are read in parallel ranges; default 32 MiB. */
  readonly rangeFromBytes?: number;
  /** Bytes of a part or range, at least 5 MiB (S3's own bound); default 16 MiB. */
  readonly partBytes?: number;
  readonly sse?: S3Encryption;
  /** Ms without a byte in either direction after which a request has failed; default 30,000. */
  readonly requestTimeoutMs?: number;
  /** Ms for which a key that was not there counts as not there, unless this process stores it; default 1,000. */
  readonly missTtlMs?: number;
  /** Ms after which `usage` lists the blocks anew, to count those of other hosts; default 600,000. */
  readonly usageMaxAgeMs?: number;
  /** Ms after which unfinished uploads that somebody left behind are aborted, at open; default 24 hours. */
  readonly uploadLeftoverMs?: number;
  /** Damaged objects kept for a look, the newest; default 64. */
  readonly quarantineObjectsMax?: number;
}

type Optional = "region" | "endpoint" | "sse" | "capacityBytes" | "objectsMax";

export type ResolvedS3Config = Required<Omit<S3Config, Optional | "quotas">> &
  Pick<S3Config, Optional> & { readonly quotas: ReadonlyMap<string, number> };

const MEBIBYTE = 2 ** 20;
const PART_BYTES_MIN = 5 * MEBIBYTE;
const DEFAULTS = {
  socketsMax: 64,
  queueBlocksMax: 65_536,
  multipartFromBytes: 32 * MEBIBYTE,
  rangeFromBytes: 32 * MEBIBYTE,
  partBytes: 16 * MEBIBYTE,
  requestTimeoutMs: 30_000,
  missTtlMs: 1000,
  usageMaxAgeMs: 600_000,
  uploadLeftoverMs: 24 * 3_600_000,
  quarantineObjectsMax: 64,
};
const MINIMA: Readonly<Record<keyof typeof DEFAULTS, number>> = {
  ...{ socketsMax: 1, queueBlocksMax: 1, multipartFromBytes: 1, rangeFromBytes: 1, partBytes: PART_BYTES_MIN },
  ...{ requestTimeoutMs: 1, missTtlMs: 0, usageMaxAgeMs: 0, uploadLeftoverMs: 0, quarantineObjectsMax: 0 },
};
const NOT_NUMBERS = ["bucket", "prefix", "region", "endpoint", "forcePathStyle", "sse"];
const CAPACITY_FIELDS = ["capacityBytes", "objectsMax", "policy", "quotas"] as const;
/** Names that look like the settings of other programs, and what is said about them. */
const CREDENTIAL_FIELDS = ["credentials", "accessKeyId", "secretAccessKey", "sessionToken", "profile"];

/** Fills in defaults.
 * @throws KvferryError CONFIG_INVALID with `context.field`. */
export function resolveConfig(config: S3Config): ResolvedS3Config {
  refuseUnknown(config);
  const { bucket, prefix = "", region, endpoint } = config;
  if (typeof bucket !== "string" || !/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/.test(bucket)) {
    throw invalid("bucket", "must be a bucket's name: 3 to 63 lower-case letters, digits, dots and hyphens");
  }
  if (typeof prefix !== "string" || !/^([A-Za-z0-9!_.*'()-]+(\/[A-Za-z0-9!_.*'()-]+)*)?$/.test(prefix)) {
    throw invalid("prefix", "must be names of letters, digits and !_.*'()- with single slashes between them");
  }
  if (prefix.length > 512) throw invalid("prefix", "must have at most 512 characters");
  if (region !== undefined && (typeof region !== "string" || !/^[A-Za-z0-9-]{1,64}$/.test(region))) {
    throw invalid("region", "must be a region such as eu-central-1");
  }
  if (endpoint !== undefined) checkEndpoint(endpoint);
  checkEncryption(config.sse);
  checkCapacity(config);
  const { capacityBytes, objectsMax, policy = DEFAULT_POLICY, quotas = {} } = config;
  return {
    ...DEFAULTS,
    ...numbersOf(config),
    ...{ bucket, prefix },
    ...(region !== undefined && { region }),
    ...(endpoint !== undefined && { endpoint }),
    ...(config.sse !== undefined && { sse: config.sse }),
    ...(capacityBytes !== undefined && { capacityBytes }),
    ...(objectsMax !== undefined && { objectsMax }),
    policy: policyNamed(policy, "policy"),
    quotas: new Map(Object.entries(quotas)),
    forcePathStyle: config.forcePathStyle ?? endpoint !== undefined,
  };
}

function refuseUnknown(config: S3Config): void {
  const known = [...NOT_NUMBERS, ...CAPACITY_FIELDS, ...Object.keys(DEFAULTS)];
  for (const field of Object.keys(config)) {
    if (known.includes(field)) continue;
    if (CREDENTIAL_FIELDS.includes(field)) {
      const how = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the host a role";
      throw invalid(field, `is not taken from a configuration; ${how}`);
    }
    throw invalid(field, "is not a setting");
  }
}

function numbersOf(config: S3Config): Partial<typeof DEFAULTS> {
  const numbers: Partial<Record<keyof typeof DEFAULTS, number>> = {};
  for (const [field, min] of Object.entries(MINIMA) as [keyof typeof DEFAULTS, number][]) {
    const value = config[field];
    if (value === undefined) continue;
    if (!Number.isSafeInteger(value) || value < min) {
      throw invalid(field, `must be a whole number of at least ${min}, got ${value}`);
    }
    numbers[field] = value;
  }
  return numbers;
}

function checkEndpoint(endpoint: string): void {
  const url = typeof endpoint === "string" && URL.canParse(endpoint) ? new URL(endpoint) : undefined;
  if (url === undefined || !["http:", "https:"].includes(url.protocol)) {
    throw invalid("endpoint", "must be a URL such as https://storage.example:9000");
  }
  // never repeated: a URL with a password in it must not reach a log
  if (url.username !== "" || url.password !== "") throw invalid("endpoint", "must not hold a user or a password");
  if (url.search !== "" || url.hash !== "") throw invalid("endpoint", "must not hold a query or a fragment");
}

function checkEncryption(sse: S3Encryption | undefined): void {
  if (sse === undefined) return;
  if (sse.type !== "AES256" && sse.type !== "aws:kms") throw invalid("sse.type", "must be AES256 or aws:kms");
  if (sse.kmsKeyId !== undefined && sse.type !== "aws:kms")
    throw invalid("sse.kmsKeyId", "belongs to the type aws:kms");
}

function checkCapacity(config: S3Config): void {
  const { capacityBytes, objectsMax, quotas = {} } = config;
  for (const field of CAPACITY_FIELDS) {
    if (config[field] !== undefined && capacityBytes === undefined)
      throw invalid(field, "needs `capacityBytes`: set it too");
  }
  const counts = { capacityBytes, objectsMax };
  for (const [tenant, bytes] of Object.entries(quotas)) Object.assign(counts, { [`quotas.${tenant}`]: bytes });
  for (const [field, value] of Object.entries(counts)) {
    if (value !== undefined && !(Number.isSafeInteger(value) && value > 0)) {
      throw invalid(field, `must be a whole number above 0, got ${value}`);
    }
  }
}

function invalid(field: string, reason: string): KvferryError {
  return new KvferryError("CONFIG_INVALID", `s3 backend: '${field}' ${reason}`, {
    operation: "config",
    context: { field },
  });
}

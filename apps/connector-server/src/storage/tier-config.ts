import { resolve } from "node:path";
import { KvferryError, type PolicyName, policyNamed } from "@kvferry/core";
import { parseSize } from "../sizes.js";

/** A size as people write it: bytes, or a text such as "200GiB". */
export type Size = string | number;

/** When a store to this tier counts: `through` waits for it, `back` writes it in the background, `none` leaves the tier to what other
 * tiers move into it. */
export type WriteMode = "through" | "back" | "none";

interface CommonTierConfig {
  /** For metrics and status; default the backend's name. Two tiers have two names. */
  readonly name?: string;
  /** Default: through. */
  readonly write?: WriteMode;
  readonly deadlineMs?: number;
}

/** A folder with a file for each block. */
interface FolderTierConfig extends CommonTierConfig {
  readonly root: string;
  readonly layout?: "kvferry" | "vllm-fs";
  readonly adopt?: boolean;
  /** For a file system that can hang. */
  readonly abandonable?: boolean;
  readonly capacity?: Size;
  readonly filesMax?: number;
  readonly policy?: string;
  /** Tenant → size. */
  readonly quotas?: Readonly<Record<string, Size>>;
  readonly threads?: number;
  readonly fsync?: boolean;
  readonly direct?: "auto" | "on" | "off";
}

export interface PosixTierConfig extends FolderTierConfig {
  readonly backend: "posix";
}

export interface NfsTierConfig extends FolderTierConfig {
  readonly backend: "nfs";
  readonly negativeTtlMs?: number;
}

interface ParallelFsTierConfig extends FolderTierConfig {
  readonly backend: "parallel-fs";
  readonly striping?: "auto" | "keep" | "replace";
  readonly stripeCount?: number;
  readonly stripeSize?: Size;
  readonly pool?: string;
  readonly dataOnMdt?: boolean;
}

export interface MemoryTierConfig extends CommonTierConfig {
  readonly backend: "memory";
  readonly capacity?: Size;
  readonly policy?: string;
}

export interface NvmeTierConfig extends CommonTierConfig {
  readonly backend: "nvme";
  /** A folder, or a block device. */
  readonly path: string;
  readonly capacity?: Size;
  readonly segment?: Size;
  readonly direct?: "auto" | "on" | "off";
  readonly ioUring?: "auto" | "on" | "off";
  readonly discard?: "auto" | "on" | "off";
  readonly dailyWrites?: Size;
}

export interface S3TierConfig extends CommonTierConfig {
  readonly backend: "s3";
  readonly bucket: string;
  readonly prefix?: string;
  readonly region?: string;
  readonly endpoint?: string;
  readonly forcePathStyle?: boolean;
  readonly capacity?: Size;
  readonly objectsMax?: number;
  readonly policy?: string;
  /** Tenant → size. */
  readonly quotas?: Readonly<Record<string, Size>>;
  readonly socketsMax?: number;
  readonly sse?: { readonly type: "AES256" | "aws:kms"; readonly kmsKeyId?: string };
  readonly requestTimeoutMs?: number;
}

export interface SftpTierConfig extends CommonTierConfig {
  readonly backend: "sftp";
  readonly host: string;
  readonly port?: number;
  readonly user: string;
  /** On the remote host. */
  readonly root: string;
  readonly privateKeyFile?: string;
  readonly passphraseEnv?: string;
  readonly agent?: string | true;
  readonly hostKey?: string | readonly string[];
  readonly knownHostsFile?: string;
  readonly hostKeyCheck?: boolean;
  readonly connectionsMax?: number;
  readonly requestsPerFileMax?: number;
  readonly fsync?: boolean;
}

export type TierConfig =
  | PosixTierConfig
  | NfsTierConfig
  | ParallelFsTierConfig
  | MemoryTierConfig
  | NvmeTierConfig
  | S3TierConfig
  | SftpTierConfig;

/** Whether a tier is a folder of this host with a file for each block. */
export function isFolderTier<T extends { readonly backend: TierConfig["backend"] }>(
  tier: T,
): tier is Extract<T, { readonly backend: "posix" | "nfs" | "parallel-fs" }> {
  return tier.backend === "posix" || tier.backend === "nfs" || tier.backend === "parallel-fs";
}

interface Resolved {
  readonly name: string;
  readonly write: WriteMode;
  /** Ms that a store or load may take. */
  readonly deadlineMs: number;
}

type Without<T, K extends PropertyKey> = Omit<T, K | keyof CommonTierConfig>;

/** What is said of one bound that all servers of a storage hold together. */
type SharedBounds = Pick<FolderTierConfig, "capacity" | "quotas" | "policy">;

interface ResolvedBounds {
  readonly capacityBytes?: number;
  readonly quotas?: Readonly<Record<string, number>>;
  readonly policy?: PolicyName;
}

export type ResolvedPosixTier = Without<PosixTierConfig, keyof SharedBounds> & Resolved & ResolvedBounds;
export type ResolvedNfsTier = Without<NfsTierConfig, keyof SharedBounds> & Resolved & ResolvedBounds;
export type ResolvedParallelFsTier = Without<ParallelFsTierConfig, keyof SharedBounds | "stripeSize"> &
  Resolved &
  ResolvedBounds & { readonly stripeBytes?: number };
export type ResolvedMemoryTier = Without<MemoryTierConfig, "capacity" | "policy"> &
  Resolved & { readonly capacityBytes: number; readonly policy?: PolicyName };
export type ResolvedNvmeTier = Without<NvmeTierConfig, "capacity" | "segment" | "dailyWrites"> &
  Resolved & {
    readonly capacityBytes: number;
    readonly segmentBytes?: number;
    readonly dailyWriteBytesMax?: number;
  };
export type ResolvedS3Tier = Without<S3TierConfig, keyof SharedBounds> & Resolved & ResolvedBounds;
export type ResolvedSftpTier = Without<SftpTierConfig, never> & Resolved;

export type ResolvedTier =
  | ResolvedPosixTier
  | ResolvedNfsTier
  | ResolvedParallelFsTier
  | ResolvedMemoryTier
  | ResolvedNvmeTier
  | ResolvedS3Tier
  | ResolvedSftpTier;

const MEMORY_CAPACITY_BYTES = 2 ** 30;
const DEADLINE_MS = 30_000;
/** As many as a TieredStore takes. */
const TIERS_MAX = 7;

/** @throws KvferryError CONFIG_INVALID with `context.field`. */
export function resolveTiers(tiers: readonly TierConfig[]): readonly ResolvedTier[] {
  if (tiers.length < 1 || tiers.length > TIERS_MAX)
    throw invalid("tiers", `takes 1 to ${TIERS_MAX} tiers, got ${tiers.length}`);
  const resolved = tiers.map((tier, i) => resolveTier(tier, `tiers[${i}]`));
  resolved.forEach(({ name }, i) => {
    const first = resolved.findIndex((other) => other.name === name);
    if (first === i) return;
    throw invalid(`tiers[${i}].name`, `is '${name}', as that of tiers[${first}]; give each tier a name of its own`);
  });
  if (resolved.every(({ write }) => write === "none"))
    throw invalid("tiers[0].write", "is none, as that of all tiers: nothing would ever be stored");
  return resolved;
}

function resolveTier(tier: TierConfig, field: string): ResolvedTier {
  const common = {
    name: tier.name ?? tier.backend,
    write: tier.write ?? "through",
    deadlineMs: tier.deadlineMs ?? DEADLINE_MS,
  } as const;
  switch (tier.backend) {
    case "memory": {
      const { capacity, policy, ...rest } = tier;
      return {
        ...rest,
        ...common,
        capacityBytes: sizeOf(`${field}.capacity`, capacity) ?? MEMORY_CAPACITY_BYTES,
        ...given("policy", policyOf(`${field}.policy`, policy)),
      };
    }
    case "posix":
    case "nfs": {
      const { capacity, quotas, policy, ...rest } = tier;
      const root = absolutePath(`${field}.root`, rest.root);
      return { ...rest, ...common, root, ...boundsOf(field, tier) };
    }
    case "parallel-fs": {
      const { capacity, quotas, policy, stripeSize, ...rest } = tier;
      const root = absolutePath(`${field}.root`, rest.root);
      const stripeBytes = sizeOf(`${field}.stripeSize`, stripeSize);
      return { ...rest, ...common, root, ...boundsOf(field, tier), ...given("stripeBytes", stripeBytes) };
    }
    case "nvme": {
      const { capacity, segment, dailyWrites, ...rest } = tier;
      const capacityBytes = sizeOf(`${field}.capacity`, capacity);
      if (capacityBytes === undefined) throw invalid(`${field}.capacity`, "is missing: the room is taken at the start");
      return {
        ...rest,
        ...common,
        path: absolutePath(`${field}.path`, rest.path),
        capacityBytes,
        ...given("segmentBytes", sizeOf(`${field}.segment`, segment)),
        ...given("dailyWriteBytesMax", sizeOf(`${field}.dailyWrites`, dailyWrites)),
      };
    }
    case "s3": {
      const { capacity, quotas, policy, ...rest } = tier;
      return { ...rest, ...common, ...boundsOf(field, tier) };
    }
    case "sftp":
      return { ...tier, ...common };
  }
}

function boundsOf(field: string, { capacity, policy, quotas }: SharedBounds): ResolvedBounds {
  return {
    ...given("capacityBytes", sizeOf(`${field}.capacity`, capacity)),
    ...given("policy", policyOf(`${field}.policy`, policy)),
    ...given("quotas", quotasOf(`${field}.quotas`, quotas)),
  };
}

function policyOf(field: string, policy: string | undefined): PolicyName | undefined {
  return policy === undefined ? undefined : policyNamed(policy, field);
}

function quotasOf(
  field: string,
  quotas: Readonly<Record<string, Size>> | undefined,
): Record<string, number> | undefined {
  if (quotas === undefined) return undefined;
  return Object.fromEntries(
    Object.entries(quotas).map(([tenant, size]) => [tenant, sizeOf(`${field}.${tenant}`, size) as number]),
  );
}

function given<K extends string, V>(key: K, value: V | undefined): { readonly [P in K]?: V } {
  return value === undefined ? {} : ({ [key]: value } as { readonly [P in K]?: V });
}

/** @throws KvferryError CONFIG_INVALID */
export function sizeOf(field: string, size: Size | undefined): number | undefined {
  if (size === undefined) return undefined;
  const bytes = parseSize(size);
  if (bytes === undefined || bytes < 1) throw invalid(field, `must be a size such as 200GiB, got '${size}'`);
  return bytes;
}

/** @throws KvferryError CONFIG_INVALID */
export function absolutePath(field: string, path: string): string {
  if (path.includes("\0")) throw invalid(field, "holds a zero byte");
  return resolve(path);
}

export function invalid(field: string, reason: string): KvferryError {
  return new KvferryError("CONFIG_INVALID", `configuration: '${field}' ${reason}`, {
    operation: "config",
    context: { field },
  });
}

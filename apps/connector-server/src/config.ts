import { homedir } from "node:os";
import { isAbsolute, join } from "node:path";
import {
  absolutePath,
  invalid,
  type ResolvedTier,
  resolveTiers,
  type Size,
  sizeOf,
  type TierConfig,
} from "./storage/tier-config.js";

export type LogLevel = "debug" | "info" | "warn" | "error" | "silent";

export interface LimitsConfig {
  readonly connectionsMax?: number;
  readonly namespacesMax?: number;
  readonly requestsMax?: number;
  readonly requestBytesMax?: Size;
  readonly batchKeysMax?: number;
  readonly sendBufferBytesMax?: Size;
  readonly helloTimeoutMs?: number;
  readonly operationsMax?: number;
}

interface DirectConfig {
  readonly stagingBytes?: Size;
}

interface WarmConfig {
  readonly bytes?: Size;
  readonly rate?: Size;
}

/** The configuration file, schema/kvferry.config.schema.json. Everything has a default. */
export interface ServerConfig {
  readonly socket?: string;
  /** HOST:PORT or "off"; port 0 takes a free one. */
  readonly http?: string;
  readonly logLevel?: LogLevel;
  readonly drainTimeoutMs?: number;
  readonly namespaceIdleMs?: number;
  readonly limits?: LimitsConfig;
  readonly tiers?: readonly TierConfig[];
  /** Warms the upper tiers at the start. */
  readonly warm?: WarmConfig;
  /** For engines in direct mode. */
  readonly direct?: DirectConfig;
}

export interface HttpAddress {
  readonly host: string;
  readonly port: number;
}

export interface ResolvedLimits {
  readonly connectionsMax: number;
  readonly namespacesMax: number;
  readonly requestsMax: number;
  readonly requestBytesMax: number;
  readonly batchKeysMax: number;
  readonly sendBufferBytesMax: number;
  readonly helloTimeoutMs: number;
  readonly operationsMax: number;
}

interface ResolvedWarm {
  readonly bytesMax: number | undefined;
  readonly rateBytesMax: number | undefined;
}

export interface ResolvedConfig {
  readonly socket: string;
  /** Whether `socket` is the default, whose folder is ours to make and to check. */
  readonly socketIsDefault: boolean;
  readonly http: HttpAddress | undefined;
  readonly logLevel: LogLevel;
  readonly drainTimeoutMs: number;
  readonly namespaceIdleMs: number;
  readonly limits: ResolvedLimits;
  /** Fastest first. */
  readonly tiers: readonly ResolvedTier[];
  readonly direct: {
    /** Memory of each namespace with such engines, in which chunks are put together and loaded. */
    readonly stagingBytes: number;
  };
  /** undefined: not at the start. */
  readonly warm: ResolvedWarm | undefined;
}

const STAGING_BYTES = 64 * 2 ** 20;
/** Half of it is one view, and Node 20 has none of 4 GiB. */
const STAGING_BYTES_MAX = 4 * 2 ** 30;

export const HTTP_DEFAULT = "127.0.0.1:9464";

/** Fills in defaults and turns sizes into bytes.
 * @throws KvferryError CONFIG_INVALID with `context.field`. */
export function resolveConfig(config: ServerConfig, env: NodeJS.ProcessEnv = process.env): ResolvedConfig {
  const limits = config.limits ?? {};
  const tiers = resolveTiers(config.tiers ?? [{ backend: "posix", root: defaultRoot(env) }]);
  return {
    socket: config.socket === undefined ? defaultSocket(env) : absolutePath("socket", config.socket),
    socketIsDefault: config.socket === undefined,
    http: parseHttp(config.http ?? HTTP_DEFAULT),
    logLevel: config.logLevel ?? "info",
    drainTimeoutMs: config.drainTimeoutMs ?? 10_000,
    namespaceIdleMs: config.namespaceIdleMs ?? 60_000,
    limits: {
      connectionsMax: limits.connectionsMax ?? 256,
      namespacesMax: limits.namespacesMax ?? 64,
      requestsMax: limits.requestsMax ?? 64,
      requestBytesMax: sizeOf("limits.requestBytesMax", limits.requestBytesMax) ?? 64 * 2 ** 20,
      batchKeysMax: limits.batchKeysMax ?? 4096,
      sendBufferBytesMax: sizeOf("limits.sendBufferBytesMax", limits.sendBufferBytesMax) ?? 16 * 2 ** 20,
      helloTimeoutMs: limits.helloTimeoutMs ?? 10_000,
      operationsMax: limits.operationsMax ?? 64,
    },
    tiers,
    direct: { stagingBytes: stagingBytesOf(config.direct) },
    warm: config.warm === undefined ? undefined : resolveWarm(config.warm, tiers),
  };
}

function stagingBytesOf({ stagingBytes }: DirectConfig = {}): number {
  const bytes = sizeOf("direct.stagingBytes", stagingBytes) ?? STAGING_BYTES;
  if (bytes <= STAGING_BYTES_MAX) return bytes;
  throw invalid("direct.stagingBytes", `is ${bytes}, and ${STAGING_BYTES_MAX} is the most`);
}

function resolveWarm({ bytes, rate }: WarmConfig, tiers: readonly ResolvedTier[]): ResolvedWarm {
  if (tiers.length < 2)
    throw invalid("warm", "needs two tiers or more: blocks go from the slower into the faster ones");
  return { bytesMax: sizeOf("warm.bytes", bytes), rateBytesMax: sizeOf("warm.rate", rate) };
}

/** Where blocks are kept without a configuration. */
export function defaultRoot(env: NodeJS.ProcessEnv = process.env): string {
  const data = env.XDG_DATA_HOME;
  return join(data !== undefined && isAbsolute(data) ? data : join(homedir(), ".local", "share"), "kvferry");
}

/** Where engines look for the server without a configuration. */
export function defaultSocket(env: NodeJS.ProcessEnv = process.env): string {
  const runtime = env.XDG_RUNTIME_DIR;
  const folder =
    runtime !== undefined && isAbsolute(runtime)
      ? join(runtime, "kvferry")
      : join("/tmp", `kvferry-${process.getuid?.() ?? 0}`);
  return join(folder, "kvferry.sock");
}

/** "HOST:PORT", "[::1]:PORT" or "off".
 * @throws KvferryError CONFIG_INVALID */
export function parseHttp(text: string): HttpAddress | undefined {
  if (text === "off") return undefined;
  const match = /^(\[[0-9a-fA-F:.]+\]|[^:[\]]+):(\d{1,5})$/.exec(text);
  const port = Number(match?.[2]);
  if (match === null || port > 65_535) throw invalid("http", `must be HOST:PORT or off, got '${text}'`);
  return { host: (match[1] as string).replace(/^\[|\]$/g, ""), port };
}

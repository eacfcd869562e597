import { isAbsolute } from "node:path";
import { type Clock, KvferryError, type Logger, silentLogger, systemClock } from "@kvferry/core";
import { SEGMENT_DRIVE_HEADER_BYTES } from "@kvferry/native";

/** How much of a segment its reinserted blocks may fill, at most: writes cost at most twice what stores bring. */
export const REINSERTED_SHARE_MAX = 0.5;

/** One segment takes stores and one is being given up; the others hold blocks. */
const SEGMENTS_MIN = 4;
const SEGMENT_BYTES_UNIT = 4096;
const SEGMENT_BYTES_MIN = 65_536;
const SEGMENT_BYTES_DEFAULT = 128 * 1024 * 1024;
/** Without `segmentBytes`, a drive has at least so many segments. */
const SEGMENTS_DEFAULT_MIN = 16;
const DRIVE_BYTES_MAX = 16 * 2 ** 40;

/** A drive: a folder or a block device that belongs to kvferry alone, for any number of namespaces. */
export interface NvmeDriveConfig {
  /** Absolute path of a folder (made if missing) on a local file system, or of a block device. */
  readonly path: string;
  /** Bytes that everything on the drive takes, headers included, at most: they are allocated at once, and never exceeded. */
  readonly capacityBytes: number;
  /** Room is taken and given up in units of this: a multiple of 4096, of at least 64 KiB; a block must fit in. A drive keeps what it was made
   * with. Default: what an existing drive has, else 128 MiB, or a sixteenth of the capacity where that is less. */
  readonly segmentBytes?: number;
  /** O_DIRECT: `auto` (default) uses it where a probe shows that it works. */
  readonly direct?: "auto" | "on" | "off";
  /** io_uring: `auto` (default) falls back to threads where the kernel refuses it. */
  readonly ioUring?: "auto" | "on" | "off";
  /** TRIM, or hole punching, of segments that were given up: `auto` (default) on block devices only. In a file it would give up room that has to be
   * allocated again, which makes writes slower. */
  readonly discard?: "auto" | "on" | "off";
  /** Transfers that the drive works on at a time; default 64. */
  readonly queueDepth?: number;
  /** Default 0o600 and 0o700: KV blocks hold what users wrote. */
  readonly fileMode?: number;
  readonly folderMode?: number;
  /** Drive wear: bytes that may be written in 24 hours, at most. Over it stores are DROPPED with BUSY and nothing is reinserted. Default: no bound. */
  readonly dailyWriteBytesMax?: number;
}

/** What a program may give along with the settings. */
export interface NvmeDriveHooks {
  readonly logger?: Logger;
  readonly clock?: Clock;
}

export interface ResolvedDriveConfig
  extends Required<Omit<NvmeDriveConfig, "segmentBytes" | "queueDepth" | "dailyWriteBytesMax">> {
  /** Undefined: take what the drive was made with, or `segmentBytesDefault`. */
  readonly segmentBytes: number | undefined;
  readonly segmentBytesDefault: number;
  readonly queueDepth: number | undefined;
  readonly dailyWriteBytesMax: number;
  readonly logger: Logger;
  readonly clock: Clock;
}

/** Fills in defaults.
 * @throws KvferryError CONFIG_INVALID with `context.field`. */
export function resolveDriveConfig(config: NvmeDriveConfig, hooks: NvmeDriveHooks = {}): ResolvedDriveConfig {
  const { path, capacityBytes, segmentBytes, queueDepth, dailyWriteBytesMax } = config;
  if (typeof path !== "string" || !isAbsolute(path)) {
    throw invalid("path", `must be an absolute path, got ${JSON.stringify(path)}`);
  }
  positive("capacityBytes", capacityBytes);
  if (capacityBytes > DRIVE_BYTES_MAX) throw invalid("capacityBytes", `must be at most 16 TiB, got ${capacityBytes}`);
  if (queueDepth !== undefined) positive("queueDepth", queueDepth);
  if (dailyWriteBytesMax !== undefined) positive("dailyWriteBytesMax", dailyWriteBytesMax);
  if (segmentBytes !== undefined) checkSegmentBytes(segmentBytes);
  const segmentBytesDefault = defaultSegmentBytes(capacityBytes);
  segmentCount(capacityBytes, segmentBytes ?? segmentBytesDefault);
  return {
    ...{ path, capacityBytes, segmentBytes, segmentBytesDefault, queueDepth },
    direct: choice("direct", config.direct),
    ioUring: choice("ioUring", config.ioUring),
    discard: choice("discard", config.discard),
    fileMode: mode("fileMode", config.fileMode ?? 0o600),
    folderMode: mode("folderMode", config.folderMode ?? 0o700),
    dailyWriteBytesMax: dailyWriteBytesMax ?? Number.POSITIVE_INFINITY,
    logger: hooks.logger ?? silentLogger,
    clock: hooks.clock ?? systemClock,
  };
}

/** How many segments of a size fit.
 * @throws KvferryError CONFIG_INVALID if they are too few. */
export function segmentCount(capacityBytes: number, segmentBytes: number): number {
  const segments = Math.floor((capacityBytes - SEGMENT_DRIVE_HEADER_BYTES) / segmentBytes);
  if (segments >= SEGMENTS_MIN) return segments;
  const needed = SEGMENT_DRIVE_HEADER_BYTES + SEGMENTS_MIN * segmentBytes;
  throw invalid(
    "capacityBytes",
    `must be at least ${needed} for ${SEGMENTS_MIN} segments of ${segmentBytes} bytes, got ${capacityBytes}: raise it, or lower segmentBytes`,
  );
}

export function invalid(field: string, reason: string, context: object = {}): KvferryError {
  return new KvferryError("CONFIG_INVALID", `nvme backend: '${field}' ${reason}`, {
    operation: "config",
    context: { ...context, field },
  });
}

function defaultSegmentBytes(capacityBytes: number): number {
  const share = (capacityBytes - SEGMENT_DRIVE_HEADER_BYTES) / SEGMENTS_DEFAULT_MIN;
  const whole = Math.floor(Math.min(SEGMENT_BYTES_DEFAULT, share) / SEGMENT_BYTES_UNIT) * SEGMENT_BYTES_UNIT;
  return Math.max(SEGMENT_BYTES_MIN, whole);
}

function checkSegmentBytes(value: number): void {
  if (Number.isSafeInteger(value) && value >= SEGMENT_BYTES_MIN && value % SEGMENT_BYTES_UNIT === 0) return;
  throw invalid(
    "segmentBytes",
    `must be a multiple of ${SEGMENT_BYTES_UNIT}, at least ${SEGMENT_BYTES_MIN}, got ${value}`,
  );
}

function positive(field: string, value: number): void {
  if (Number.isSafeInteger(value) && value > 0) return;
  throw invalid(field, `must be a positive whole number, got ${value}`);
}

function choice(field: string, value: "auto" | "on" | "off" = "auto"): "auto" | "on" | "off" {
  if (value === "auto" || value === "on" || value === "off") return value;
  throw invalid(field, `must be auto, on or off, got ${JSON.stringify(value)}`);
}

function mode(field: string, value: number): number {
  if (Number.isInteger(value) && value >= 0 && value <= 0o777) return value;
  throw invalid(field, `must be a mode from 0 to 0o777, got ${value}`);
}

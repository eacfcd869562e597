import { mkdir, open, stat, statfs } from "node:fs/promises";
import { join } from "node:path";
import { KvferryError, toKvferryError } from "@kvferry/core";
import { openSegmentDrive, type SegmentDrive, type SegmentDriveOptions } from "@kvferry/native";
import { type ResolvedDriveConfig, segmentCount } from "./config.js";

/** How long a drive that another process has is waited for. */
const IN_USE_WAIT_MS = 2000;
const IN_USE_POLL_MS = 20;
const FILE_NAME = "segments.kvs";
/** Of the superblock; docs/nvme-format.md. */
const MAGIC = "KVFDRIVE";
const SEGMENT_BYTES_AT = 32;

/** Opens the drive of a configuration, making what is missing.
 * @throws KvferryError that names the setting, or the path, and what helps. */
export async function openNative(config: ResolvedDriveConfig): Promise<SegmentDrive> {
  const { path, capacityBytes, direct, ioUring, discard, queueDepth, fileMode, folderMode } = config;
  try {
    const isDevice = (await stat(path).catch(() => undefined))?.isBlockDevice() ?? false;
    if (!isDevice) await mkdir(path, { recursive: true, mode: folderMode });
    const segmentBytes =
      config.segmentBytes ?? (await madeWith(isDevice ? path : join(path, FILE_NAME))) ?? config.segmentBytesDefault;
    const segments = segmentCount(capacityBytes, segmentBytes);
    return await openWhenFree({
      ...{ path, segmentBytes, segments, direct, ioUring, discard, fileMode },
      ...(queueDepth === undefined ? {} : { queueDepth }),
    });
  } catch (thrown) {
    throw await explained(toKvferryError(thrown, "open", { path }), config);
  }
}

/** The segmentBytes of a drive that exists; undefined where there is none. Whether it is whole is for the data plane to say. */
async function madeWith(file: string): Promise<number | undefined> {
  const handle = await open(file, "r").catch(() => undefined); // if it cannot be opened, opening the drive will say why
  if (handle === undefined) return undefined;
  try {
    const page = Buffer.alloc(SEGMENT_BYTES_AT + 8);
    const { bytesRead } = await handle.read(page, 0, page.length, 0);
    if (bytesRead < page.length || page.toString("latin1", 0, MAGIC.length) !== MAGIC) return undefined;
    return Number(page.readBigUInt64LE(SEGMENT_BYTES_AT));
  } finally {
    await handle.close();
  }
}

/** The kernel takes a moment to let go of a drive whose process has just ended. */
async function openWhenFree(options: SegmentDriveOptions): Promise<SegmentDrive> {
  const giveUpAtMs = performance.now() + IN_USE_WAIT_MS;
  for (;;) {
    try {
      return await openSegmentDrive(options);
    } catch (thrown) {
      if ((thrown as { code?: unknown }).code !== "BUSY" || performance.now() > giveUpAtMs) throw thrown;
    }
    await new Promise((resolve) => setTimeout(resolve, IN_USE_POLL_MS));
  }
}

/** The same error with words that name the setting and what helps. */
async function explained(error: KvferryError, { path, capacityBytes }: ResolvedDriveConfig): Promise<KvferryError> {
  const hint = await hintFor(error.code, path, capacityBytes);
  if (hint === undefined) return error;
  return new KvferryError(error.code, `nvme backend: ${path}: ${hint} (${error.message})`, {
    operation: "open",
    context: { ...error.context, path, capacityBytes },
    cause: error,
  });
}

async function hintFor(code: KvferryError["code"], path: string, capacityBytes: number): Promise<string | undefined> {
  if (code === "BUSY") {
    return "another process uses this drive, which serves one at a time: give each server a path of its own, or end the other one";
  }
  if (code === "PERMISSION") return "the process may not read and write there: check owner and mode";
  if (code === "READ_ONLY") return "the file system is mounted read-only";
  if (code !== "NO_SPACE") return undefined;
  const free = await statfs(path).catch(() => undefined);
  const room = free === undefined ? "" : `, and ${free.bavail * free.bsize} are free`;
  return `capacityBytes of ${capacityBytes} are allocated at once${room}: lower capacityBytes, or free some room`;
}

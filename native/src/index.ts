/** The C++ data plane: shared memory regions, file I/O engine, checksums and Unix sockets that pass descriptors. Every Error
 * thrown or rejected here has `code`, one of core's error codes, and `context` with `path`, `errno` and `field` where there are any. */
import { createEngine } from "./engine.js";
import { type Addon, loadAddon } from "./load.js";
import { openDrive } from "./segment-drive.js";
import type {
  ChecksumImplementation,
  ConnectionHandlers,
  ConnectOptions,
  CreateRegionOptions,
  CudaReport,
  FileEngine,
  FileEngineOptions,
  FileFeatures,
  ListenOptions,
  MappedRegion,
  OwnCudaMemory,
  RegionShape,
  SegmentDrive,
  SegmentDriveOptions,
  UnixConnection,
  UnixServer,
} from "./types.js";

export { NO_BLOCK } from "./device.js";
export * from "./segment-layout.js";
export type * from "./types.js";

let loaded: Addon | undefined;

/** At the first use, so that importing this package never fails. */
function addon(): Addon {
  loaded ??= loadAddon();
  return loaded;
}

/** Loads the addon now.
 * @throws Error UNSUPPORTED that says what is missing and what helps. */
export function requireNative(): void {
  addon();
}

/** I/O threads with a queue. @throws Error INVALID_ARGUMENT. */
export function createFileEngine(options: FileEngineOptions = {}): FileEngine {
  return createEngine(addon(), options);
}

/** New shared memory (a memfd, sealed against being resized), zeroed. */
export function createRegion(shape: RegionShape, options: CreateRegionOptions = {}): MappedRegion {
  return addon().createRegion(shape, options.hugePages === "try");
}

/** Maps a file, such as one in /dev/shm. @throws Error INVALID_ARGUMENT when it is shorter than the shape. */
export function mapRegionPath(path: string, shape: RegionShape): MappedRegion {
  return addon().mapRegionPath(path, shape);
}

/** Maps a descriptor, which belongs to the region from now on, even if this throws. */
export function mapRegionFd(fd: number, shape: RegionShape): MappedRegion {
  return addon().mapRegionFd(fd, shape);
}

/** Closes a descriptor that a connection brought. */
export function closeFd(fd: number): void {
  addon().closeFd(fd);
}

/** @throws Error BUSY when another server listens there. */
export function listenUnix(path: string, options: ListenOptions): UnixServer {
  return addon().listenUnix(path, options);
}

/** Connects at once. @throws Error UNAVAILABLE when nobody listens there. */
export function connectUnix(path: string, handlers: ConnectionHandlers, options: ConnectOptions = {}): UnixConnection {
  return addon().connectUnix(path, handlers, options);
}

/** CRC-32C; `seed` is the checksum of the bytes before these. */
export function crc32c(bytes: Uint8Array, seed = 0): number {
  return addon().crc32c(bytes, seed);
}

export function checksumImplementation(): ChecksumImplementation {
  return addon().checksumImplementation();
}

/** Ends the process with `code` in `ms` from now, unless it has ended by then. For after the work is done: threads that hang in the kernel (Node's
 * own, for one) would keep `process.exit` waiting for ever. */
export function exitWithin(ms: number, code: number): void {
  addon().exitWithin(ms, code);
}

/** Opens a segment drive, making it where there is none, with threads or an io_uring of its own. Rejects with an Error whose `context` has
 * the path: BUSY when another process has the drive open; CONFIG_INVALID when it was made with other segment bytes, or the device carries
 * something that is not a drive of ours (which is never overwritten); NO_SPACE; UNSUPPORTED when `direct` or `ioUring` is "on" and does not work. */
export function openSegmentDrive(options: SegmentDriveOptions): Promise<SegmentDrive> {
  return openDrive(addon(), options);
}

/** Tries what calls do in a folder (absolute path), on files in a folder of its own below it, removed afterwards; takes up to two seconds. On a file system that
 * hangs the promise may never settle, and the process not end by itself: call it in a process that may be killed. Rejects with an Error whose
 * `context` has path and errno where not even a file can be made. */
export function tryFileFeatures(folder: string): Promise<FileFeatures> {
  return addon().tryFileFeatures(folder);
}

/** The GPUs that this process sees. Blocks while the driver starts, which may take a second. @throws Error UNSUPPORTED "no CUDA: …". */
export function cudaReport(): CudaReport {
  return addon().cudaReport();
}

/** Device memory of this process, filled with what lay there, for another process to open: for trying a GPU. At most 1 GiB.
 * @throws Error UNSUPPORTED, INVALID_ARGUMENT, NO_SPACE, DEVICE_FAILED, DEVICE_LOST. */
export function allocateCudaMemory(uuid: Uint8Array, bytes: number): OwnCudaMemory {
  return new (addon().OwnCudaMemory)(uuid, bytes);
}

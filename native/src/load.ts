/** Finds the compiled addon: the package for this platform, else what was built in this repository. */
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import type { Cancels } from "./cancel.js";
import type {
  BlockCopy,
  BlockResult,
  ChecksumImplementation,
  ConnectionHandlers,
  ConnectOptions,
  CudaReport,
  DeviceCopies,
  DeviceStats,
  FileEngineStats,
  FileFeatures,
  FileStoreCounters,
  FileStoreOptions,
  FolderListing,
  FolderStamps,
  ListenOptions,
  MappedRegion,
  OpenDeviceOptions,
  OwnCudaMemory,
  RecoveredDrive,
  RegionShape,
  SegmentAppend,
  SegmentDriveCounters,
  SegmentDriveOptions,
  SegmentRead,
  UnixConnection,
  UnixServer,
} from "./types.js";

/** The addon as C++ makes it (src/napi). Only `index.ts` and its neighbours see it. */
export interface Addon {
  crc32c(bytes: Uint8Array, seed?: number): number;
  checksumImplementation(): ChecksumImplementation;
  createRegion(shape: RegionShape, hugePages: boolean): MappedRegion;
  mapRegionPath(path: string, shape: RegionShape): MappedRegion;
  mapRegionFd(fd: number, shape: RegionShape): MappedRegion;
  closeFd(fd: number): void;
  listenUnix(path: string, options: ListenOptions): UnixServer;
  connectUnix(path: string, handlers: ConnectionHandlers, options?: ConnectOptions): UnixConnection;
  exitWithin(ms: number, code: number): void;
  readonly FileEngine: new (
    threads: number,
    queueDepthMax: number,
    abandon?: { readonly stuckAfterMs: number; readonly stuckThreadsMax: number },
  ) => AddonEngine;
  openSegmentDrive(options: SegmentDriveOptions): Promise<AddonDrive>;
  tryFileFeatures(folder: string): Promise<FileFeatures>;
  cudaReport(): CudaReport;
  readonly OwnCudaMemory: new (uuid: Uint8Array, bytes: number) => OwnCudaMemory;
}

export interface AddonEngine extends Cancels {
  openStore(options: FileStoreOptions, ticket: number): Promise<AddonStore>;
  folderCall(name: string, ticket: number, path: string, ...rest: readonly unknown[]): Promise<unknown>;
  copyBlocks(copy: BlockCopy, ticket: number): Promise<BlockResult>;
  openDevice(options: OpenDeviceOptions): Promise<AddonDevice>;
  stats(): FileEngineStats;
  close(): Promise<void>;
}

export interface AddonStore {
  readonly direct: boolean;
  readonly publish: "link" | "rename";
  transfer(
    load: boolean,
    keys: Uint8Array,
    memory: Uint8Array,
    rowBytes: number,
    slots: Uint32Array,
    priority: "load" | "store",
    ticket: number,
  ): Promise<BlockResult>;
  exists(keys: Uint8Array, ticket: number): Promise<Uint8Array>;
  remove(keys: Uint8Array, ticket: number): Promise<BlockResult>;
  listFolder(folder: string, ticket: number): Promise<FolderListing>;
  stampFolders(folders: readonly string[], touch: boolean, ticket: number): Promise<FolderStamps>;
  keysIn(folder: string, ticket: number): Promise<Uint8Array>;
  counters(): FileStoreCounters;
  close(): void;
}

export interface AddonDevice {
  readonly partBytes: number;
  copy(scatter: boolean, copies: DeviceCopies, ticket: number): Promise<BlockResult>;
  stats(): DeviceStats;
  /** Once, after all copies have ended. */
  close(): Promise<void>;
}

export interface AddonDrive extends Cancels {
  readonly engine: "io_uring" | "threads";
  readonly engineReason: string | undefined;
  readonly direct: boolean;
  readonly preallocated: boolean;
  begin(segment: number, epoch: number, sequence: number): Promise<void>;
  append(append: SegmentAppend, ticket: number): Promise<BlockResult & { readonly checksums: Uint32Array }>;
  read(read: SegmentRead, ticket: number): Promise<BlockResult>;
  seal(segment: number, epoch: number, sequence: number): Promise<void>;
  recover(): Promise<RecoveredDrive>;
  discard(segment: number): Promise<void>;
  counters(): SegmentDriveCounters;
  stats(): FileEngineStats;
  close(): Promise<void>;
}

/** "glibc" or "musl"; only asked on Linux. */
function libc(): string {
  const report = process.report.getReport() as unknown as { header: { glibcVersionRuntime?: string } };
  return report.header.glibcVersionRuntime === undefined ? "musl" : "glibc";
}

/** linux-x64-glibc, …: the name of the package and of the folder in prebuilds. */
export function platformName(): string {
  return `linux-${process.arch}-${libc()}`;
}

function failure(platform: string, tried: readonly string[], causes: readonly unknown[]): Error {
  const lines = [
    `Could not load the @kvferry/native addon for ${platform} (Node ${process.versions.node}).`,
    "Looked for:",
    ...tried.map((name, i) => `  - ${name}: ${(causes[i] as Error).message.split("\n")[0]}`),
    "What helps:",
    `  - Optional packages must be installed: npm install --include=optional @kvferry/native-${platform}`,
    "  - A lock file or node_modules from another platform: install anew on this one, or name it with npm's --os, --cpu and --libc.",
    "  - In the kvferry repository: npm run build -w @kvferry/native (needs a C++20 compiler and make).",
  ];
  return Object.assign(new Error(lines.join("\n"), { cause: causes[0] }), {
    code: "UNSUPPORTED",
    context: { platform, tried },
  });
}

/** @throws Error UNSUPPORTED that says what was looked for and what helps. */
export function loadAddon(): Addon {
  if (process.platform !== "linux") {
    const message = `@kvferry/native needs Linux; this is ${process.platform}-${process.arch}. core, protocol, testkit and the S3 and SFTP backends run here without it.`;
    throw Object.assign(new Error(message), { code: "UNSUPPORTED", context: { platform: process.platform } });
  }
  const platform = platformName();
  const require = createRequire(import.meta.url);
  const tried = [
    `@kvferry/native-${platform}`,
    fileURLToPath(new URL(`../prebuilds/${platform}/kvferry.node`, import.meta.url)),
  ];
  const causes: unknown[] = [];
  for (const name of tried) {
    try {
      return require(name) as Addon;
    } catch (error) {
      causes.push(error);
    }
  }
  throw failure(platform, tried, causes);
}

/** `FileEngine` and `FileStore` over the addon: what is added here is cancelling by AbortSignal. */
import { availableParallelism } from "node:os";
import { abortError, abortedResult, cancellable } from "./cancel.js";
import { openNativeDevice } from "./device.js";
import type { Addon, AddonEngine, AddonStore } from "./load.js";
import type {
  BlockCopy,
  BlockIo,
  BlockResult,
  Device,
  FileEngine,
  FileEngineOptions,
  FileEngineStats,
  FileStore,
  FileStoreCounters,
  FileStoreOptions,
  FolderCalls,
  FolderListing,
  FolderStamps,
  OpenDeviceOptions,
} from "./types.js";

/** The threads wait for storage, not for a core: fewer leave a drive idle between small blocks. */
const THREADS_MIN = 32;
const THREADS_MAX = 64;
const QUEUE_DEPTH_MAX = 65_536;
const STUCK_AFTER_MS = 5_000;

class NativeFileStore implements FileStore {
  readonly #engine: AddonEngine;
  readonly #store: AddonStore;
  readonly #keyBytes: number;
  readonly direct: boolean;
  readonly publish: "link" | "rename";

  constructor(engine: AddonEngine, store: AddonStore, keyBytes: number) {
    this.#engine = engine;
    this.#store = store;
    this.#keyBytes = keyBytes;
    this.direct = store.direct;
    this.publish = store.publish;
  }

  store(io: BlockIo): Promise<BlockResult> {
    return this.#transfer(false, io);
  }

  load(io: BlockIo): Promise<BlockResult> {
    return this.#transfer(true, io);
  }

  async #transfer(load: boolean, io: BlockIo): Promise<BlockResult> {
    if (io.signal?.aborted) return abortedResult(io.slots.length, io.signal);
    const priority = io.priority ?? (load ? "load" : "store");
    return cancellable(this.#engine, io.signal, (ticket) =>
      this.#store.transfer(load, io.keys, io.memory, io.rowBytes, io.slots, priority, ticket),
    );
  }

  async exists(keys: Uint8Array, signal?: AbortSignal): Promise<Uint8Array> {
    if (signal?.aborted) throw abortError(signal);
    return cancellable(this.#engine, signal, (ticket) => this.#store.exists(keys, ticket));
  }

  async remove(keys: Uint8Array, signal?: AbortSignal): Promise<BlockResult> {
    if (signal?.aborted) return abortedResult(Math.floor(keys.length / this.#keyBytes), signal);
    return cancellable(this.#engine, signal, (ticket) => this.#store.remove(keys, ticket));
  }

  async listFolder(folder: string, signal?: AbortSignal): Promise<FolderListing> {
    if (signal?.aborted) throw abortError(signal);
    return cancellable(this.#engine, signal, (ticket) => this.#store.listFolder(folder, ticket));
  }

  async stampFolders(folders: readonly string[], touch: boolean, signal?: AbortSignal): Promise<FolderStamps> {
    if (signal?.aborted) throw abortError(signal);
    return cancellable(this.#engine, signal, (ticket) => this.#store.stampFolders(folders, touch, ticket));
  }

  async keysIn(folder: string, signal?: AbortSignal): Promise<Uint8Array> {
    if (signal?.aborted) throw abortError(signal);
    return cancellable(this.#engine, signal, (ticket) => this.#store.keysIn(folder, ticket));
  }

  counters(): FileStoreCounters {
    return this.#store.counters();
  }

  close(): void {
    this.#store.close();
  }
}

class NativeFileEngine implements FileEngine {
  readonly #engine: AddonEngine;
  readonly abandonable: boolean;
  readonly folders: FolderCalls;

  constructor(engine: AddonEngine, abandonable: boolean) {
    this.#engine = engine;
    this.abandonable = abandonable;
    this.folders = folderCalls(engine);
  }

  async openStore(options: FileStoreOptions, signal?: AbortSignal): Promise<FileStore> {
    if (signal?.aborted) throw abortError(signal);
    const store = await cancellable(this.#engine, signal, (ticket) => this.#engine.openStore(options, ticket));
    return new NativeFileStore(this.#engine, store, options.keyBytes);
  }

  async copyBlocks(copy: BlockCopy): Promise<BlockResult> {
    const { signal } = copy;
    if (signal?.aborted) return abortedResult(copy.fromSlots.length, signal);
    return cancellable(this.#engine, signal, (ticket) => this.#engine.copyBlocks(copy, ticket));
  }

  openDevice(options: OpenDeviceOptions): Promise<Device> {
    return openNativeDevice(this.#engine, options);
  }

  stats(): FileEngineStats {
    return this.#engine.stats();
  }

  async close(): Promise<void> {
    await this.#engine.close();
  }
}

function folderCalls(engine: AddonEngine): FolderCalls {
  const call = async <T>(signal: AbortSignal | undefined, name: string, path: string, ...rest: unknown[]) => {
    if (signal?.aborted) throw abortError(signal);
    return (await cancellable(engine, signal, (ticket) => engine.folderCall(name, ticket, path, ...rest))) as T;
  };
  return {
    names: (folder, signal) => call(signal, "names", folder),
    read: (path, bytesMax, signal) => call(signal, "read", path, bytesMax),
    write: (path, bytes, mode, mustBeNew, signal) => call(signal, "write", path, bytes, mode, mustBeNew),
    rename: (from, to, signal) => call(signal, "rename", from, to),
    remove: (path, signal) => call(signal, "remove", path),
    makeFolders: (path, mode, signal) => call(signal, "makeFolders", path, mode),
    facts: (path, signal) => call(signal, "facts", path),
    fileSystem: (path, signal) => call(signal, "fileSystem", path),
    touch: (path, ms, signal) => call(signal, "touch", path, ms),
    access: (path, mode, signal) => call(signal, "access", path, mode),
  };
}

export function createEngine(addon: Addon, options: FileEngineOptions): FileEngine {
  const threads = options.threads ?? Math.min(THREADS_MAX, Math.max(THREADS_MIN, 2 * availableParallelism()));
  const queueDepthMax = options.queueDepthMax ?? QUEUE_DEPTH_MAX;
  if (!options.abandonable) return new NativeFileEngine(new addon.FileEngine(threads, queueDepthMax), false);
  const { stuckAfterMs = STUCK_AFTER_MS, stuckThreadsMax = threads } = options;
  return new NativeFileEngine(new addon.FileEngine(threads, queueDepthMax, { stuckAfterMs, stuckThreadsMax }), true);
}

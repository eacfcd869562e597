/** `FileEngine` and `FileStore` over the addon: what is added here is cancelling by AbortSignal. */
import { availableParallelism } from "node:os";
import { abortError, abortedResult, cancellable } from "./cancel.js";
import type { Addon, AddonEngine, AddonStore } from "./load.js";
import type {
  BlockCopy,
  BlockIo,
  BlockResult,
  FileEngine,
  FileEngineOptions,
  FileEngineStats,
  FileStore,
  FileStoreCounters,
  FileStoreOptions,
  FolderListing,
  FolderStamps,
} from "./types.js";

/** The threads wait for storage, not for a core: fewer leave a drive idle between small blocks. */
const THREADS_MIN = 32;
const THREADS_MAX = 64;
const QUEUE_DEPTH_MAX = 65_536;

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

  async listFolder(folder: string): Promise<FolderListing> {
    return this.#store.listFolder(folder);
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

  constructor(engine: AddonEngine) {
    this.#engine = engine;
  }

  async openStore(options: FileStoreOptions): Promise<FileStore> {
    return new NativeFileStore(this.#engine, await this.#engine.openStore(options), options.keyBytes);
  }

  async copyBlocks(copy: BlockCopy): Promise<BlockResult> {
    const { signal } = copy;
    if (signal?.aborted) return abortedResult(copy.fromSlots.length, signal);
    return cancellable(this.#engine, signal, (ticket) => this.#engine.copyBlocks(copy, ticket));
  }

  stats(): FileEngineStats {
    return this.#engine.stats();
  }

  async close(): Promise<void> {
    await this.#engine.close();
  }
}

export function createEngine(addon: Addon, options: FileEngineOptions): FileEngine {
  const threads = options.threads ?? Math.min(THREADS_MAX, Math.max(THREADS_MIN, 2 * availableParallelism()));
  return new NativeFileEngine(new addon.FileEngine(threads, options.queueDepthMax ?? QUEUE_DEPTH_MAX));
}

import { join } from "node:path";
import {
  type AuthorContext,
  type AuthorOptions,
  type AuthorScanOptions,
  abortCode,
  type BatchResult,
  type BlockBatch,
  countOutcome,
  EvictedBlocks,
  type KeyBatch,
  keyAt,
  LookupState,
  mergeResult,
  newWriterName,
  OffloadBackend,
  Outcome,
  POLICIES,
  packKeys,
  RecordKind,
  type RootStatus,
  type ScanPage,
  type SharedRoot,
  selectBatch,
  selectKeys,
  setOutcome,
  storedBlockBytes,
  toKvferryError,
  type Usage,
} from "@kvferry/core";
import { createFileEngine, type FileEngine, type FileStore } from "@kvferry/native";
import { acquireRoot, releaseRoot } from "./capacity/root.js";
import { type PosixConfig, type ResolvedPosixConfig, resolveConfig } from "./config.js";
import { describe, makeFolder } from "./describe.js";
import { anyOf, endsBy } from "./ends.js";
import type { BlockFinder, FileSystemHabits } from "./finder.js";
import { LastCalls } from "./last-calls.js";
import { type Folders, folderName, foldersOf } from "./layout.js";
import { blocksIn, type Leaf } from "./leaves.js";
import { abandonable, posixManifest } from "./manifest.js";
import { engineCalls, nodeCalls, type PathCalls } from "./path-calls.js";
import { keyText, Presence } from "./presence.js";
import { NOTICE_MS, SoleWriter } from "./sole-writer.js";
import { planStore } from "./store-plan.js";
import { livingWriters, removeDeadWriters, removeWriterFolder } from "./writers.js";

/** What an abandonable backend gives a file system: ms for all of open, and for what close wants of it. */
const OPEN_MS = 30_000;
const CLOSE_MS = 1_000;

/** One file a block in a folder of any POSIX file system; docs/block-format.md. */
export class PosixBackend extends OffloadBackend {
  readonly #config: ResolvedPosixConfig;
  readonly #habits: FileSystemHabits;
  readonly #writer: string = newWriterName();
  readonly #lastCalls: LastCalls = new LastCalls();
  #folders: Folders | undefined;
  #engine: FileEngine | undefined;
  #store: FileStore | undefined;
  #presence: Presence | undefined;
  #finder: BlockFinder | undefined;
  #sole: SoleWriter | undefined;
  /** With a capacity. */
  #root: SharedRoot | undefined;
  #folder = "";
  #evicted: EvictedBlocks | undefined;
  #indexing: Promise<void> = Promise.resolve();
  /** Listings that were begun: only the last one knows all, since what an earlier one had found may have been forgotten meanwhile. */
  #listings = 0;
  #counting: Promise<Usage> | undefined;
  /** Whether `#presence` holds every block of the folder. */
  #complete = false;

  /** `habits`: given by the backends that are this one on a file system of its own kind.
   * @throws KvferryError CONFIG_INVALID with `context.field`. */
  constructor(config: PosixConfig, habits: FileSystemHabits = { manifest: posixManifest }) {
    const resolved = resolveConfig(config);
    super(resolved.abandonable ? abandonable(habits.manifest) : habits.manifest);
    this.#config = resolved;
    this.#habits = habits;
  }

  /** What the probe of the folder found; undefined before open. */
  get probe(): { readonly direct: boolean; readonly publish: "link" | "rename" } | undefined {
    return this.#store && { direct: this.#store.direct, publish: this.#store.publish };
  }

  /** What this process knows of the root's capacity; undefined without one, and before open. */
  get rootStatus(): RootStatus | undefined {
    return this.#root?.status;
  }

  protected override async _open(context: AuthorContext): Promise<void> {
    const folders = foldersOf(this.#config, context.namespace);
    const { abandonable, threads } = this.#config;
    this.#engine = this.#config.engine ?? createFileEngine({ abandonable, ...(threads && { threads }) });
    this.#folders = folders;
    await this.#habits.checkRoot?.(this.#config.root);
    const signal = abandonable ? anyOf(context.signal, AbortSignal.timeout(OPEN_MS)) : undefined;
    const calls = this.#callsUntil(signal);
    await makeFolder(folders.blocks, this.#config.folderMode, calls);
    await makeFolder(folders.namespace, this.#config.folderMode, calls);
    this.#store = await this.#openStore(folders, context, this.#engine, signal);
    await describe(folders, this.#config, context, this.#writer, calls);
    const removed = await removeDeadWriters(folders.writers, this.#writer, context.clock.nowMs(), calls);
    if (removed > 0)
      context.logger.info({ folder: folders.writers, removed }, "removed what ended writers left behind");
    this.#presence = new Presence(context.keyBytes);
    this.#finder = this.#habits.createFinder?.({
      config: this.#config,
      files: this.#files,
      presence: this.#presence,
    });
    this.#folder = folderName(this.#config, context.namespace);
    await endsBy(this.#joinRoot(context), signal);
    await endsBy(this.#watchWriters(folders, context, calls), signal);
    if (!this.#sole?.alone) this.#startIndexing(); // else it has begun
  }

  protected override async _lookup(keys: KeyBatch, { signal }: AuthorOptions): Promise<Uint8Array> {
    const states = new Uint8Array(keys.count);
    const unknown = this.#index.lookup(keys, states);
    if (unknown.length === 0 || this.#knowsAll) return this.#tellOrder(keys, states);
    const asked = selectKeys(keys, unknown);
    const { removals } = this.#index;
    const found = await this.#untilLastCalls(
      signal,
      (until) => this.#finder?.find(asked, until) ?? this.#files.exists(asked.bytes, until),
    );
    for (const [i, position] of unknown.entries()) {
      if (found[i] !== 1) continue;
      states[position] = LookupState.HIT;
      if (removals === this.#index.removals) this.#index.add(keyAt(asked, i));
    }
    return this.#tellOrder(keys, states);
  }

  protected override _lookupNow(keys: KeyBatch): Uint8Array | undefined {
    const states = new Uint8Array(keys.count);
    const unknown = this.#index.lookup(keys, states);
    const known = unknown.length === 0 || this.#knowsAll || this.#finder?.knowsMissing(keys, unknown) === true;
    if (!known) return undefined;
    return this.#tellOrder(keys, states);
  }

  protected override _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#untilLastCalls(options.signal, (signal) => this.#storeNew(batch, { ...options, signal }));
  }

  async #storeNew(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const plan = planStore(batch, this.#index);
    if (plan.positions.length > 0) {
      const room = await this.#reserve(plan.positions.length, options);
      this.#noteWithoutRoom(plan.result, plan.positions.slice(room), options);
      const positions = plan.positions.slice(0, room);
      if (room > 0) {
        const part = room === batch.keys.count ? batch : selectBatch(batch, positions);
        mergeResult(plan.result, positions, await this.#writeReserved(part, options));
      }
    }
    plan.copyTwins();
    return plan.result;
  }

  protected override async _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const known = new Uint8Array(batch.keys.count);
    this.#index.lookup(batch.keys, known);
    const result = await this.#untilLastCalls(options.signal, (signal) =>
      this.#files.load(io(batch, { ...options, signal })),
    );
    const loaded = countOutcome(result, Outcome.LOADED);
    if (loaded < batch.keys.count) this.#noteNotLoaded(batch.keys, result, known);
    if (loaded > 0) this.#root?.tell(RecordKind.USED, this.#folder, keysWith(batch.keys, result, Outcome.LOADED));
    return result;
  }

  protected override async _remove(keys: KeyBatch, { signal }: AuthorOptions): Promise<BatchResult> {
    this.#index.removals++;
    try {
      const result = await this.#untilLastCalls(signal, (until) => this.#files.remove(keys.bytes, until));
      tellFirst(keys, result);
      for (let i = 0; i < keys.count; i++) {
        if (result.outcomes[i] !== Outcome.FAILED) this.#index.delete(keyAt(keys, i));
      }
      this.#root?.tell(RecordKind.GONE, this.#folder, keysWith(keys, result, Outcome.REMOVED));
      return result;
    } finally {
      this.#index.removals++;
    }
  }

  protected override async *_scan(options: AuthorScanOptions): AsyncGenerator<ScanPage> {
    for await (const { entries } of this.#leaves(options.signal)) {
      for (let i = 0; i < entries.length; i += options.pageEntriesMax)
        yield entries.slice(i, i + options.pageEntriesMax);
    }
  }

  /** Counts the folder, unless this process is its only writer and knows. */
  protected override _usage(): Promise<Usage> {
    if (!this.#config.abandonable) return this.#count();
    // one count at a time: whoever asks again and again must not pile up threads that hang
    this.#counting ??= this.#count().finally(() => {
      this.#counting = undefined;
    });
    return this.#counting;
  }

  override close(): Promise<void> {
    if (this.#config.abandonable && this.state === "open") this.#lastCalls.begin();
    return super.close();
  }

  async #count(): Promise<Usage> {
    const { capacityBytes } = this.#config;
    for (let waited: Promise<void> | undefined; waited !== this.#indexing; ) {
      waited = this.#indexing;
      await waited;
    }
    if (this.#knowsAll && !this.#config.adopt) {
      return { bytes: this.#index.size * this.#fileBytes, blocks: this.#index.size, capacityBytes };
    }
    let bytes = 0;
    let blocks = 0;
    for await (const { entries } of this.#leaves(this.#unlessStopped)) {
      blocks += entries.length;
      for (const entry of entries) bytes += entry.bytes;
    }
    return { bytes, blocks, capacityBytes };
  }

  protected override async _close(): Promise<void> {
    this.#lastCalls.end();
    this.#sole?.stop();
    await this.#indexing;
    if (this.#evicted !== undefined) this.#root?.leave(this.#evicted);
    const { abandonable } = this.#config;
    const signal = abandonable ? AbortSignal.timeout(CLOSE_MS) : undefined;
    if (this.#finder !== undefined) await this.#unlessHung(endsBy(this.#finder.close(), signal));
    if (this.#root !== undefined) await this.#unlessHung(endsBy(releaseRoot(this.#root), signal));
    if (!abandonable) await this.#closeEngine(); // so that nothing comes into the folder any more
    if (this.#folders && this.#engine) {
      const own = join(this.#folders.writers, this.#writer);
      await this.#unlessHung(removeWriterFolder(own, this.#callsUntil(signal)));
    }
    if (abandonable) await this.#closeEngine();
  }

  async #closeEngine(): Promise<void> {
    this.#store?.close();
    if (this.#config.engine === undefined) await this.#engine?.close();
  }

  /** A file system that hangs must not keep an abandonable backend from closing. */
  async #unlessHung(ending: Promise<unknown>): Promise<void> {
    try {
      await ending;
    } catch (thrown) {
      if (!this.#config.abandonable) throw thrown;
      const facts = { err: toKvferryError(thrown, "close"), root: this.#config.root };
      this.context.logger.warn(facts, "something is left behind in a folder that could not be used");
    }
  }

  /** Of an abandonable backend, the call ends soon after close(), even if nobody aborts its signal. */
  #untilLastCalls<T>(
    signal: AbortSignal | undefined,
    call: (until: AbortSignal | undefined) => Promise<T>,
  ): Promise<T> {
    return this.#config.abandonable ? this.#lastCalls.run(signal, call) : call(signal);
  }

  /** Calls on paths that end when the signal aborts, where they can. */
  #callsUntil(signal: AbortSignal | undefined): PathCalls {
    if (!this.#config.abandonable) return nodeCalls;
    return engineCalls((this.#engine as FileEngine).folders, signal ?? this.#lastCalls.signal);
  }

  /** For calls of an abandonable backend that nobody else can end. */
  get #unlessStopped(): AbortSignal | undefined {
    return this.#config.abandonable ? this.#lastCalls.signal : undefined;
  }

  get #index(): Presence {
    return this.#presence as Presence; // set by _open, before any call
  }

  get #files(): FileStore {
    return this.#store as FileStore;
  }

  get #tenant(): string {
    return this.context.namespace.fields.tenant;
  }

  get #knowsAll(): boolean {
    return this.#complete && this.#sole?.alone === true;
  }

  get #fileBytes(): number {
    return storedBlockBytes(this.context.blockBytes);
  }

  async #joinRoot({ logger, clock }: AuthorContext): Promise<void> {
    const { root, capacityBytes, filesMax, quotas, policy, fileMode, folderMode, engine } = this.#config;
    if (capacityBytes === undefined) return;
    const shared = { root, capacityBytes, filesMax, quotas, fileMode, folderMode, engine, logger, clock };
    this.#root = await acquireRoot({ ...shared, policy: POLICIES[policy] });
    this.#evicted = new EvictedBlocks({
      folder: this.#folder,
      known: this.#index,
      remain: (keys) => this.#files.exists(keys.bytes, this.#unlessStopped),
      announce: (keys) => this.announceRemoved(keys, "evicted"),
      relist: () => {
        this.#index.clear();
        this.#finder?.forget();
        this.#startIndexing();
      },
    });
    this.#root.join(this.#evicted);
  }

  /** For how many of so many blocks there is room. */
  async #reserve(count: number, { signal }: AuthorOptions): Promise<number> {
    if (this.#root === undefined) return count;
    return this.#root.reserve(this.#tenant, count, this.#fileBytes, signal);
  }

  /** A block has no room because there is none, because the call was cut short in the wait for it, or because the storage cannot be written. */
  #noteWithoutRoom(result: BatchResult, positions: readonly number[], { signal }: AuthorOptions): void {
    const failure = signal?.aborted ? abortCode(signal) : this.#root?.trouble;
    for (const position of positions) {
      if (failure === undefined) setOutcome(result, position, Outcome.DROPPED, "NO_SPACE");
      else setOutcome(result, position, Outcome.FAILED, failure);
    }
  }

  /** Writes blocks for which there is room, and says what became of it. */
  async #writeReserved(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const { count } = batch.keys;
    const settle = (stored: KeyBatch, lost: number): void =>
      this.#root?.settle(this.#tenant, count, this.#fileBytes, this.#folder, stored, lost);
    let result: BatchResult;
    try {
      result = await this.#write(batch, options);
    } catch (thrown) {
      settle(selectKeys(batch.keys, []), count);
      throw thrown;
    }
    // the folder's own fsync comes after the name is out, and what was abandoned may still be stored
    const { fsync, abandonable } = this.#config;
    const lost = fsync || abandonable ? countOutcome(result, Outcome.FAILED) : 0;
    settle(keysWith(batch.keys, result, Outcome.STORED), lost);
    return result;
  }

  /** Tells the evictor the order of a request's blocks, if any of them is there. */
  #tellOrder(keys: KeyBatch, states: Uint8Array): Uint8Array {
    if (keys.count > 1 && states.includes(LookupState.HIT)) this.#root?.tell(RecordKind.OBSERVED, this.#folder, keys);
    return states;
  }

  #openStore(
    folders: Folders,
    context: AuthorContext,
    engine: FileEngine,
    signal: AbortSignal | undefined,
  ): Promise<FileStore> {
    const { layout, fileMode, folderMode, fsync, adopt, direct, publish, quarantineFilesMax } = this.#config;
    const options = {
      blocksFolder: folders.blocks,
      tmpFolder: join(folders.writers, this.#writer),
      quarantineFolder: folders.quarantine,
      namespaceDigest: context.namespace.digest,
      writer: this.#writer,
      keyBytes: context.keyBytes,
      blockBytes: context.blockBytes,
      ...{ layout, fileMode, folderMode, fsync, adopt, direct, publish, quarantineFilesMax },
    };
    return engine.openStore(options, signal);
  }

  async #watchWriters(folders: Folders, context: AuthorContext, calls: PathCalls): Promise<void> {
    const nowMs = () => context.clock.nowMs();
    // vLLM's own tier gives no sign of itself: in its folder nobody can know to be alone
    const mayBeAlone = this.#config.layout === "kvferry";
    this.#sole = new SoleWriter({
      folder: folders.writers,
      own: this.#writer,
      mayBeAlone,
      calls: this.#callsUntil(this.#unlessStopped),
      nowMs,
      onAlone: () => this.#startIndexing(),
    });
    const others = await livingWriters(folders.writers, this.#writer, nowMs(), calls);
    if (others.length > 0) await new Promise((resolve) => setTimeout(resolve, NOTICE_MS));
    await this.#sole.start();
  }

  #startIndexing(): void {
    if (this.#finder !== undefined) return; // it lists what is asked for
    this.#complete = false;
    const previous = this.#indexing;
    const listing = ++this.#listings;
    this.#indexing = (async () => {
      await previous;
      try {
        for await (const { keys, removals } of this.#leaves(this.#lastCalls.signal)) {
          if (removals === this.#index.removals) this.#index.addAll(keys);
          else await this.#noteIfThere(keys, this.#unlessStopped);
        }
        if (listing === this.#listings) this.#complete = true;
      } catch (thrown) {
        if (this.#lastCalls.signal.aborted) return;
        const facts = { err: toKvferryError(thrown, "scan"), folder: this.#folders?.blocks };
        this.context.logger.warn(facts, "could not list the blocks; lookups ask the file system");
      }
    })();
  }

  /** The blocks of one folder after the other. */
  async *#leaves(signal: AbortSignal | undefined): AsyncGenerator<Leaf> {
    const { blocks } = this.#folders as Folders;
    const { keyBytes, blockBytes } = this.context;
    const { layout, adopt } = this.#config;
    const own = this.#unlessStopped && anyOf(signal, this.#unlessStopped);
    const found = { fileBytes: this.#fileBytes, files: this.#files, calls: this.#callsUntil(own), signal: own };
    const facts = { layout, adopt, blocks, keyBytes, blockBytes, ...found };
    for await (const leaf of blocksIn({ ...facts, removals: () => this.#index.removals })) {
      signal?.throwIfAborted();
      yield leaf;
    }
  }

  async #write(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const { removals } = this.#index;
    this.#index.beginStoring(batch.keys);
    try {
      const result = await this.#files.store(io(batch, options));
      const stored = (i: number) => result.outcomes[i] === Outcome.STORED || result.outcomes[i] === Outcome.PRESENT;
      const noted = selectKeys(batch.keys, [...result.outcomes.keys()].filter(stored));
      this.#finder?.noteStored(keysWith(batch.keys, result, Outcome.STORED));
      if (removals === this.#index.removals) this.#index.addAll(noted);
      else await this.#noteIfThere(noted, this.#config.abandonable ? options.signal : undefined);
      return result;
    } finally {
      this.#index.endStoring(batch.keys);
    }
  }

  /** For keys that another call may have removed while this one stored or listed them: asks until no removal is under way. */
  async #noteIfThere(keys: KeyBatch, signal: AbortSignal | undefined): Promise<void> {
    if (keys.count === 0 || signal?.aborted) return;
    for (;;) {
      const { removals } = this.#index;
      const found = await this.#files.exists(keys.bytes, signal);
      if (removals !== this.#index.removals) continue;
      for (let i = 0; i < keys.count; i++) if (found[i] === 1) this.#index.add(keyAt(keys, i));
      return;
    }
  }

  /** `known`: LookupState of each key before the load; what came meanwhile stays. */
  #noteNotLoaded(keys: KeyBatch, result: BatchResult, known: Uint8Array): void {
    const corrupt: Uint8Array[] = [];
    const gone: number[] = [];
    for (let i = 0; i < keys.count; i++) {
      const outcome = result.outcomes[i];
      if (outcome !== Outcome.MISS && outcome !== Outcome.CORRUPT) continue;
      const key = keyAt(keys, i);
      if (known[i] === LookupState.HIT) this.#index.delete(key);
      if (outcome === Outcome.CORRUPT) corrupt.push(key);
      if (outcome === Outcome.CORRUPT || known[i] === LookupState.HIT) gone.push(i);
    }
    this.#root?.tell(RecordKind.GONE, this.#folder, selectKeys(keys, gone));
    if (corrupt.length === 0) return;
    const { logger } = this.context;
    logger.warn(
      { blocks: corrupt.length, quarantine: this.#folders?.quarantine },
      "damaged blocks were found and set aside",
    );
    this.announceRemoved(packKeys(corrupt), "corrupt");
  }
}

function io(batch: BlockBatch, { signal, priority }: AuthorOptions) {
  const { keys, region, slots } = batch;
  return { keys: keys.bytes, memory: region.bytes, rowBytes: region.rowBytes, slots, signal, priority };
}

/** The keys that had this outcome. */
function keysWith(keys: KeyBatch, result: BatchResult, outcome: Outcome): KeyBatch {
  if (countOutcome(result, outcome) === keys.count) return keys;
  const { outcomes } = result;
  return selectKeys(
    keys,
    [...outcomes.keys()].filter((i) => outcomes[i] === outcome),
  );
}

/** The data plane removes equal keys of a batch in any order; the caller hears of the first one that it was removed. */
function tellFirst(keys: KeyBatch, { outcomes }: BatchResult): void {
  const first = new Map<string, number>();
  for (let i = 0; i < keys.count; i++) {
    const text = keyText(keyAt(keys, i));
    const of = first.get(text);
    if (of === undefined) first.set(text, i);
    else if (outcomes[i] === Outcome.REMOVED && outcomes[of] === Outcome.MISS) {
      outcomes[of] = Outcome.REMOVED;
      outcomes[i] = Outcome.MISS;
    }
  }
}

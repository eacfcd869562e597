import {
  type AuthorContext,
  type AuthorOptions,
  type BatchResult,
  type BlockBatch,
  type KeyBatch,
  type KvferryError,
  type NamespaceRecord,
  NO_ROW,
  Outcome,
  selectKeys,
  setOutcome,
  toKvferryError,
  uniformResult,
} from "@kvferry/core";
import {
  recordBytes,
  SEGMENT_DRIVE_HEADER_BYTES,
  SEGMENT_HEADER_BYTES,
  type SegmentDrive,
  type SegmentNamespace,
  segmentOf,
  summaryBytes,
} from "@kvferry/native";
import { loadBlocks } from "./block-reader.js";
import { BlockWriter } from "./block-writer.js";
import {
  invalid,
  type NvmeDriveConfig,
  type NvmeDriveHooks,
  type ResolvedDriveConfig,
  resolveDriveConfig,
} from "./config.js";
import { Evictor } from "./evictor.js";
import { Leave } from "./leave.js";
import { META_PAGE_BYTES, shelfName, WEAR } from "./meta-records.js";
import { encodeNamespace } from "./namespace-pages.js";
import { openNative } from "./open-native.js";
import { recover } from "./recovery.js";
import { SegmentLog } from "./segment-log.js";
import { SegmentTable } from "./segment-table.js";
import { SequenceSource } from "./sequence.js";
import { RowState, Shelf, type ShelfUser } from "./shelf.js";
import { describeNamespace, storedNamespaces } from "./stored-namespaces.js";
import { UseCounts } from "./use-counts.js";
import { WearCounter } from "./wear.js";

/** Room for a new namespace in the index; it grows. */
const EXPECTED_BLOCKS = 1024;

/** What a drive has done since it was opened, unless a name says otherwise. */
export interface NvmeDriveCounters {
  /** Payload of stored blocks, padding included. */
  readonly bytesWrittenByStores: number;
  /** Records of blocks that were copied to outlive their segment. */
  readonly bytesWrittenByReinsertion: number;
  /** Headers, summaries, and facts about the drive. */
  readonly bytesWrittenAsMetadata: number;
  /** All bytes written for each byte stored; 0 before the first. */
  readonly writeAmplification: number;
  /** Through restarts. */
  readonly bytesWrittenLast24Hours: number;
  /** Since the drive was made. */
  readonly bytesWrittenEver: number;
  /** What may still be written in these 24 hours; Infinity without a budget. */
  readonly wearBudgetLeftBytes: number;
  readonly blocksDroppedByWearBudget: number;
  readonly segmentsEvicted: number;
  readonly segmentsDiscarded: number;
  readonly blocksEvicted: number;
  readonly blocksReinserted: number;
  readonly blocksCorrupt: number;
  /** All namespaces together, now. */
  readonly blocks: number;
  readonly segmentsFree: number;
  /** Bytes of memory for the index. */
  readonly indexBytes: number;
}

/** How a drive does its I/O, as its probes have found. */
export interface NvmeDriveProbe {
  readonly engine: "io_uring" | "threads";
  /** Why it is not io_uring, where it is not. */
  readonly engineReason: string | undefined;
  readonly direct: boolean;
  readonly preallocated: boolean;
  readonly segments: number;
  readonly segmentBytes: number;
  /** Bytes of the file, or of the part of the device that is used: exactly so many, always. */
  readonly driveBytes: number;
}

/** Opens the drive at a path, making it where there is none, and rebuilds the index of what it holds.
 * @throws KvferryError CONFIG_INVALID for settings that make no sense or do not fit what is there; BUSY when another process has it open;
 * NO_SPACE, PERMISSION, READ_ONLY, UNSUPPORTED, IO. */
export async function openNvmeDrive(config: NvmeDriveConfig, hooks?: NvmeDriveHooks): Promise<NvmeDrive> {
  const resolved = resolveDriveConfig(config, hooks);
  const drive = await openNative(resolved);
  try {
    const opened = new NvmeDrive(resolved, drive);
    await opened.recover();
    return opened;
  } catch (thrown) {
    await drive.close();
    throw toKvferryError(thrown, "open", { path: config.path });
  }
}

/** Blocks of any number of namespaces on one drive, in a log of segments that is never larger than its capacity. Made by `openNvmeDrive`; used
 * through one `NvmeBackend` for each namespace. */
export class NvmeDrive {
  readonly config: ResolvedDriveConfig;
  readonly #drive: SegmentDrive;
  readonly #table: SegmentTable;
  readonly #sequences: SequenceSource;
  readonly #wear: WearCounter;
  readonly #reading: UseCounts;
  readonly #log: SegmentLog;
  readonly #writer: BlockWriter;
  readonly #leave: Leave;
  readonly #evictor: Evictor;
  readonly #shelves: Shelf[] = [];
  readonly #shelfByName: Map<string, Shelf> = new Map();
  readonly #noting: Set<Promise<void>> = new Set();
  readonly #namespaces: Map<string, { readonly record: NamespaceRecord; readonly pages: Uint8Array }> = new Map();
  #blocksCorrupt = 0;
  #closing: Promise<void> | undefined;

  /** @internal */
  constructor(config: ResolvedDriveConfig, drive: SegmentDrive) {
    const { logger, clock } = config;
    this.config = config;
    this.#drive = drive;
    this.#table = new SegmentTable(drive.segments);
    this.#sequences = new SequenceSource(clock);
    this.#wear = new WearCounter(config.dailyWriteBytesMax);
    this.#reading = new UseCounts(drive.segments);
    const hooks = {
      opened: () => {
        this.#noteWear();
        for (const digestHex of this.#namespaces.keys()) this.#noteNamespace(digestHex);
        this.#evictor.poke();
      },
      starved: () => {
        this.#evictor.poke();
        this.#evictor.hurry();
      },
      writing: (bytes: number) => this.#wear.add("metadata", bytes, clock.nowMs()),
    };
    this.#log = new SegmentLog(drive, this.#table, this.#sequences, hooks, logger);
    const [table, log, wear, sequences] = [this.#table, this.#log, this.#wear, this.#sequences];
    const parts = { drive, table, log, wear, sequences, clock, logger };
    this.#writer = new BlockWriter(parts);
    const reading = this.#reading;
    const corrupt = (blocks: number): void => {
      this.#blocksCorrupt += blocks;
    };
    this.#leave = new Leave({ drive, reading, logger, corrupt });
    const largestBlockBytes = () => this.#largestBlockBytes();
    this.#evictor = new Evictor({ ...parts, reading, leave: this.#leave, shelves: this.#shelves, largestBlockBytes });
  }

  get probe(): NvmeDriveProbe {
    const { engine, engineReason, direct, preallocated, segments, segmentBytes } = this.#drive;
    const driveBytes = SEGMENT_DRIVE_HEADER_BYTES + segments * segmentBytes;
    return { engine, engineReason, direct, preallocated, segments, segmentBytes, driveBytes };
  }

  counters(): NvmeDriveCounters {
    const { stores, reinsertion, metadata } = this.#wear.written;
    const nowMs = this.config.clock.nowMs();
    let indexBytes = this.#table.memoryBytes;
    for (const shelf of this.#shelves) indexBytes += shelf.memoryBytes;
    return {
      bytesWrittenByStores: stores,
      bytesWrittenByReinsertion: reinsertion,
      bytesWrittenAsMetadata: metadata,
      writeAmplification: stores === 0 ? 0 : (stores + reinsertion + metadata) / stores,
      bytesWrittenLast24Hours: this.#wear.lastDayBytes(nowMs),
      bytesWrittenEver: this.#wear.everBytes,
      wearBudgetLeftBytes: this.#wear.leftBytes(nowMs),
      blocksDroppedByWearBudget: this.#writer.blocksDroppedByBudget,
      ...this.#evictor.counters,
      blocksCorrupt: this.#blocksCorrupt,
      blocks: this.#shelves.reduce((sum, { blocks }) => sum + blocks, 0),
      segmentsFree: this.#table.freeCount,
      indexBytes,
    };
  }

  /** Ends what is going on in the background and lets others have the drive. Backends that use it are closed before. May be called twice. */
  close(): Promise<void> {
    this.#closing ??= this.#runClose();
    return this.#closing;
  }

  /** @internal */
  async recover(): Promise<void> {
    const { logger } = this.config;
    const started = performance.now();
    const unsealed = await recover({
      drive: this.#drive,
      table: this.#table,
      sequences: this.#sequences,
      wear: this.#wear,
      logger,
      shelfFor: (namespace, expectedBlocks) => this.#shelfFor(namespace, expectedBlocks),
      namespace: (record) => this.#remember(record),
    });
    this.#log.resume(unsealed);
    this.#evictor.poke();
    const { blocks, segmentsFree } = this.counters();
    const ms = Math.round(performance.now() - started);
    logger.info({ path: this.config.path, ...this.probe, blocks, segmentsFree, ms }, "the drive is open");
  }

  /** The shelf of a backend's namespace, from now on with this user.
   * @internal
   * @throws KvferryError CONFIG_INVALID if a block does not fit into a segment. */
  attach({ namespace, keyBytes, blockBytes }: AuthorContext, user: ShelfUser): Shelf {
    const identity = { namespaceDigest: namespace.digest, keyBytes, blockBytes };
    const needed = emptySegmentBytes(identity);
    const { segmentBytes } = this.#drive;
    if (needed > segmentBytes) {
      const { capacityBytes } = this.config;
      throw invalid(
        "segmentBytes",
        `of ${segmentBytes} is too small for blocks of ${blockBytes} bytes: it must be at least ${needed}; a drive that exists keeps its segmentBytes, so begin a new one`,
        { segmentBytes, blockBytes, capacityBytes, path: this.config.path },
      );
    }
    const shelf = this.#shelfFor(identity);
    shelf.users.add(user);
    return shelf;
  }

  /** Leaves the identity of a namespace on the drive, and beside it in a folder, where people and tools find it.
   * @internal */
  async describe(record: NamespaceRecord): Promise<void> {
    this.#remember(record);
    this.#noteNamespace(record.namespace.digestHex);
    await describeNamespace(this.config, record);
  }

  /** Every namespace that may have blocks here, as far as it has left a record. */
  async storedNamespaces(): Promise<NamespaceRecord[]> {
    const found = new Map((await storedNamespaces(this.config.path)).map((each) => [each.namespace.digestHex, each]));
    for (const [digestHex, { record }] of this.#namespaces) found.set(digestHex, record);
    return [...found.values()];
  }

  /** @internal */
  store(shelf: Shelf, batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#writer.store(shelf, batch, options);
  }

  /** @internal */
  load(shelf: Shelf, batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const damaged = (of: Shelf, rows: readonly number[]) => this.#dropDamaged(of, rows);
    const parts = { drive: this.#drive, reading: this.#reading, clock: this.config.clock, damaged };
    return loadBlocks(parts, shelf, batch, options);
  }

  /** Removes what is there, also what is being evicted; what is being stored meanwhile is not. A key whose removal could not be written down is
   * FAILED: it cannot be loaded any more, but may be back after a restart.
   * @internal */
  async remove(shelf: Shelf, keys: KeyBatch, { signal }: AuthorOptions): Promise<BatchResult> {
    const result = uniformResult(keys.count, Outcome.MISS);
    const found = shelf.find(keys);
    const positionOf = new Map<number, number>(); // of each row, the first
    for (let i = 0; i < keys.count; i++) {
      const row = found[i] as number;
      if (row === NO_ROW || shelf.state(row) !== RowState.STORED || positionOf.has(row)) continue;
      positionOf.set(row, i);
    }
    const positions = new Set([...positionOf.values(), ...this.#leave.withdraw(shelf, keys)]);
    if (positions.size === 0) return result;
    this.#drop(shelf, [...positionOf.keys()]);
    let outcome: Outcome = Outcome.REMOVED;
    let code: KvferryError["code"] | undefined;
    try {
      await this.#writer.writeTombstones(shelf, selectKeys(keys, [...positions]), signal);
    } catch (thrown) {
      [outcome, code] = [Outcome.FAILED, toKvferryError(thrown, "remove").code];
    }
    for (const i of positions) setOutcome(result, i, outcome, code);
    return result;
  }

  #shelfFor(namespace: SegmentNamespace, expectedBlocks = EXPECTED_BLOCKS): Shelf {
    const name = shelfName(namespace);
    let shelf = this.#shelfByName.get(name);
    if (shelf === undefined) {
      shelf = new Shelf(this.#shelves.length, namespace, expectedBlocks);
      this.#shelves.push(shelf);
      this.#shelfByName.set(name, shelf);
    }
    return shelf;
  }

  /** Takes rows away; their keys. */
  #drop(shelf: Shelf, rows: readonly number[]): KeyBatch {
    const keys = shelf.index.keysOf(rows);
    for (const row of rows) {
      this.#table.dropEntry(segmentOf(shelf.offset4k(row), this.#drive.segmentBytes));
      shelf.drop(row);
    }
    return keys;
  }

  #dropDamaged(shelf: Shelf, rows: readonly number[]): void {
    const { logger, path } = this.config;
    const keys = this.#drop(shelf, rows);
    this.#blocksCorrupt += rows.length;
    logger.warn({ path, blocks: rows.length }, "damaged blocks were found and dropped");
    shelf.announce(keys, "corrupt");
    this.#note(this.#writer.writeTombstones(shelf, keys), "damaged blocks may be found again after a restart");
  }

  #remember(record: NamespaceRecord): void {
    const pages = encodeNamespace(record);
    if (pages !== undefined) this.#namespaces.set(record.namespace.digestHex, { record, pages });
  }

  /** Unless nothing of the namespace is left. */
  #noteNamespace(digestHex: string): void {
    const known = this.#namespaces.get(digestHex);
    if (known === undefined) return;
    const isIts = ({ namespace }: Shelf): boolean =>
      Buffer.compare(namespace.namespaceDigest, known.record.namespace.digest) === 0;
    if (!this.#shelves.some((shelf) => isIts(shelf) && (shelf.users.size > 0 || shelf.blocks > 0))) return;
    const leaveBytes = this.#largestBlockBytes();
    this.#note(
      this.#writer.writeNamespace(known.pages, leaveBytes),
      "a namespace's record was not written to the drive",
    );
  }

  #noteWear(): void {
    this.#note(this.#writer.writeWear(), "the count of bytes written in the last day could not be written down");
  }

  /** Goes on in the background until `close`. */
  #note(writing: Promise<void>, failure: string): void {
    const { logger, path } = this.config;
    const noting = writing
      .catch((err: unknown) => logger.warn({ err, path }, failure))
      .finally(() => this.#noting.delete(noting));
    this.#noting.add(noting);
  }

  #largestBlockBytes(): number {
    let bytes = 0;
    for (const { namespace, users } of this.#shelves) {
      if (users.size > 0) bytes = Math.max(bytes, emptySegmentBytes(namespace));
    }
    return bytes;
  }

  async #runClose(): Promise<void> {
    await this.#evictor.stop();
    if (this.#table.segments > this.#table.freeCount) this.#noteWear();
    const closing = this.#log.close();
    while (this.#noting.size > 0) await Promise.all(this.#noting);
    await closing;
    await this.#drive.close();
  }
}

/** What an empty segment must have for one block of a namespace, with all that goes with it. */
function emptySegmentBytes({ keyBytes, blockBytes }: SegmentNamespace): number {
  const wear = recordBytes(1, META_PAGE_BYTES, WEAR.keyBytes);
  const summary = summaryBytes(2, 2, keyBytes + WEAR.keyBytes);
  return SEGMENT_HEADER_BYTES + wear + recordBytes(1, blockBytes, keyBytes) + summary;
}

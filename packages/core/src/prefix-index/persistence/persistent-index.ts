import { mkdir } from "node:fs/promises";
import { type Checksum, crc32c } from "../../crc32c.js";
import { KvferryError, toKvferryError } from "../../errors.js";
import { keyHex } from "../../keys.js";
import { type Clock, type Logger, silentLogger, systemClock } from "../../runtime.js";
import type { BlockRecords } from "../block-records.js";
import { PrefixIndex } from "../prefix-index.js";
import { TickClock } from "../tick-clock.js";
import { ChangeList } from "./changes.js";
import { removeGenerations, syncFolder } from "./files.js";
import { FrameKind, finishFrame, jsonFrame } from "./frames.js";
import { Log } from "./log.js";
import { type FileHead, type Recovered, type RecoveryReport, recover, type Source } from "./recovery.js";
import { restoreBlocks } from "./restore.js";
import { writeSnapshot } from "./snapshot.js";

export interface PersistentIndexOptions {
  /** Of this index alone, and of one process at a time; made where it is not there. */
  readonly folder: string;
  readonly keyBytes: number;
  /** Whose blocks they are: the namespace's digest. */
  readonly identity: Uint8Array;
  /** CRC-32C; default: the one in plain JavaScript. A native one goes here. */
  readonly checksum?: Checksum | undefined;
  /** Changes are written after so long at the latest; 0: only when `flush` is called. Default 1000. */
  readonly flushIntervalMs?: number | undefined;
  /** A log that is longer than this, and than half a snapshot, is replaced by a snapshot; default 64 MiB. Where that cannot be written, the log may
   * become four times as long. */
  readonly logBytesMax?: number | undefined;
  readonly logger?: Logger | undefined;
  readonly clock?: Clock | undefined;
}

/** What the files of an index are doing. */
export interface PersistenceStatus {
  readonly generation: number;
  readonly logBytes: number;
  readonly snapshotBytes: number;
  /** Snapshots written since `open`. */
  readonly snapshots: number;
  /** How many times changes could not be written since `open`. */
  readonly failures: number;
  /** Why the files do not hold the changes of now; undefined while they do. */
  readonly error: KvferryError | undefined;
}

const FLUSH_INTERVAL_MS = 1000;
const LOG_BYTES_MAX = 64 * 1024 * 1024;
/** After a failure, a snapshot is tried again so often. */
const RETRY_INTERVAL_MS = 60_000;

/**
 * A prefix index that is there again after a restart: a snapshot and a log of changes in a folder, every piece with its checksum. What a crash leaves is the state
 * of some moment at most `flushIntervalMs` before it (after a power failure: some moment since the last snapshot); what does not verify is cut off and counted.
 * Facts may so be older than the tiers they tell of: whoever loads finds out.
 *
 * A disk that is full or broken costs nothing but this: the index goes on, changes are not written, and a new snapshot is tried now and then.
 */
export class PersistentIndex {
  readonly index: PrefixIndex;
  /** What `open` found. */
  readonly recovery: RecoveryReport;
  readonly #source: Source;
  readonly #records: BlockRecords;
  readonly #changes: ChangeList;
  readonly #epochMs: number;
  readonly #logBytesMax: number;
  readonly #logger: Logger;
  readonly #clock: Clock;
  #log: Log;
  #nextFrame: number;
  #snapshotBytes = 0;
  #snapshots = 0;
  #failures = 0;
  /** Bytes of the logs before the present one that no snapshot has replaced. */
  #olderLogBytes = 0;
  #running: Promise<void> | undefined;
  #isTending = false;
  #retryAtMs = 0;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  /** Reads what the folder holds.
   * @throws KvferryError NAMESPACE_MISMATCH if it is another namespace's; what the file system says if it cannot be read or written. */
  static async open(options: PersistentIndexOptions): Promise<PersistentIndex> {
    const { folder, keyBytes, identity, checksum = crc32c, clock = systemClock } = options;
    const begin = clock.monotonicMs();
    const source = { folder, keyBytes, identity: keyHex(identity), checksum };
    try {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      const recovered = await recover(source);
      const restored = await restoreBlocks(recovered.records, !recovered.damaged);
      const epochMs = recovered.epochMs ?? clock.nowMs();
      const index = new PrefixIndex({ keyBytes }, { ...restored, clock: new TickClock(epochMs) });
      const { frames, cutBytes, unusableFiles, damaged } = recovered;
      const seconds = (clock.monotonicMs() - begin) / 1000;
      const report = { blocks: index.size, frames, cutBytes, unusableFiles, damaged, seconds };
      const opened = new PersistentIndex(options, source, recovered, index, epochMs, report);
      try {
        await opened.#begin(recovered);
        opened.#startTimer(options.flushIntervalMs ?? FLUSH_INTERVAL_MS);
      } catch (error) {
        await opened.close();
        throw error;
      }
      return opened;
    } catch (cause) {
      throw toKvferryError(cause, "prefixIndex", { folder });
    }
  }

  private constructor(
    options: PersistentIndexOptions,
    source: Source,
    recovered: Recovered,
    index: PrefixIndex,
    epochMs: number,
    report: RecoveryReport,
  ) {
    this.index = index;
    this.recovery = report;
    this.#source = source;
    this.#records = recovered.records;
    this.#epochMs = epochMs;
    this.#nextFrame = recovered.nextFrame;
    this.#logBytesMax = options.logBytesMax ?? LOG_BYTES_MAX;
    this.#logger = options.logger ?? silentLogger;
    this.#clock = options.clock ?? systemClock;
    this.#changes = new ChangeList(this.#records, () => this.#seal());
    this.#records.journal = this.#changes;
    this.#log = this.#newLog(recovered.log?.generation ?? recovered.generationMax, recovered.log?.bytes);
  }

  status(): PersistenceStatus {
    return {
      generation: this.#log.generation,
      logBytes: this.#log.bytes,
      snapshotBytes: this.#snapshotBytes,
      snapshots: this.#snapshots,
      failures: this.#failures,
      error: this.#log.error,
    };
  }

  /** Hands all changes so far to the operating system: they outlive the process, and a power failure if the system gets to write them. A failure shows in
   * `status`. */
  async flush(): Promise<void> {
    this.#seal();
    await this.#log.settled();
  }

  /** Writes all there is and begins a new log. Calls while one is being written get that one.
   * @throws KvferryError if it could not be written; what there was before is as good as it was. */
  snapshot(): Promise<void> {
    if (this.#closed) throw new KvferryError("CLOSED", "the index has been closed", { operation: "prefixIndex" });
    this.#running ??= this.#snapshot().finally(() => {
      this.#running = undefined;
    });
    return this.#running;
  }

  /** Writes the last changes and makes them last. The index itself stays as it is; what changes in it from now on is not written. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#timer);
    await this.#running?.catch(() => {}); // whoever asked for it was told
    this.#seal();
    this.#records.journal = undefined;
    await this.#log.close();
  }

  /** Makes the files ready to be added to. */
  async #begin({ log, damaged, generationMax }: Recovered): Promise<void> {
    const { folder } = this.#source;
    if (log !== undefined && !damaged) {
      // what is later does not follow from what is cut off now
      await removeGenerations(folder, (_, generation) => generation > log.generation);
      await syncFolder(folder);
      this.#log.continue();
    } else if (damaged) {
      this.#log.fail(new KvferryError("CORRUPT", `the prefix index in ${folder} is damaged`));
      await this.#trySnapshot();
      return;
    } else {
      this.#rotate({ empty: true });
    }
    await this.#log.settled();
    if (this.#log.error !== undefined) throw this.#log.error;
    if (log === undefined) await removeGenerations(folder, (_, generation) => generation <= generationMax);
  }

  #startTimer(intervalMs: number): void {
    if (intervalMs > 0) this.#timer = setInterval(() => void this.#tend(), intervalMs).unref();
  }

  #newLog(generation: number, bytes?: number): Log {
    const bytesMax = this.#logBytesMaxNow();
    return new Log(this.#source.folder, generation, Math.max(bytesMax, 4 * bytesMax - this.#olderLogBytes), bytes);
  }

  #logBytesMaxNow(): number {
    const { rowLimit, recordWords } = this.#records;
    return Math.max(this.#logBytesMax, (rowLimit * recordWords * 4) / 2);
  }

  /** Makes a frame of the changes so far. */
  #seal(): void {
    const log = this.#log;
    if (log.error !== undefined) {
      this.#changes.clear();
      return;
    }
    if (this.#changes.count === 0) return;
    const { frame, bodyWords } = this.#changes.take();
    const header = { kind: FrameKind.CHANGES, generation: log.generation, number: this.#frameNumber(), argument: 0 };
    log.append(finishFrame(frame, bodyWords, header, this.#source.checksum));
  }

  #frameNumber(): number {
    const number = this.#nextFrame;
    this.#nextFrame = (number + 1) >>> 0;
    return number;
  }

  /** From this moment on changes go to a new log. Where the old one has failed, its last frames were never written: the number that is left out tells. */
  #rotate(facts: { readonly empty?: boolean }): void {
    const old = this.#log;
    this.#seal();
    if (old.error !== undefined) this.#frameNumber();
    const log = this.#newLog(old.generation + 1);
    log.create(old.close());
    const header = { kind: FrameKind.LOG_HEAD, generation: log.generation, number: this.#frameNumber(), argument: 0 };
    log.append(jsonFrame({ ...this.#head(), ...facts }, header, this.#source.checksum));
    log.sync();
    this.#log = log;
  }

  #head(): FileHead {
    const { identity, keyBytes } = this.#source;
    return { identity, keyBytes, epochMs: this.#epochMs };
  }

  async #snapshot(): Promise<void> {
    const { folder, checksum } = this.#source;
    const old = this.#log;
    this.#olderLogBytes += old.bytes;
    this.#rotate({});
    const log = this.#log;
    const sealLog = async (): Promise<number> => {
      this.#seal();
      const frames = this.#nextFrame;
      log.sync();
      await log.settled();
      if (log.error !== undefined) throw log.error;
      return frames;
    };
    try {
      const { generation } = log;
      const plan = { folder, generation, head: this.#head(), records: this.#records, checksum, sealLog };
      this.#snapshotBytes = await writeSnapshot(plan);
      this.#snapshots++;
      this.#olderLogBytes = 0;
      await removeGenerations(folder, (_, each) => each < generation);
    } catch (cause) {
      const error = toKvferryError(cause, "prefixIndex", { folder });
      await log.settled(); // and the old one before it
      const isTooLong = this.#olderLogBytes >= 4 * this.#logBytesMaxNow();
      if (old.error !== undefined || isTooLong) await this.#giveUp(log, old.error ?? error); // what it followed from is not all written
      throw error;
    }
  }

  /** Ends a log that is of no use. */
  async #giveUp(log: Log, error: KvferryError): Promise<void> {
    log.fail(error);
    this.#olderLogBytes -= log.bytes; // counted when the next one begins, though it is no more
    await log.close();
    await removeGenerations(this.#source.folder, (_, each) => each === log.generation).catch(() => {}); // the next snapshot tries again
  }

  /** Now and then: writes what has changed, and a snapshot where one is due. */
  async #tend(): Promise<void> {
    if (this.#isTending) return; // a slow disk
    this.#isTending = true;
    await this.flush();
    if (this.#isSnapshotDue()) await this.#trySnapshot();
    this.#isTending = false;
  }

  #isSnapshotDue(): boolean {
    if (this.#closed || this.#running !== undefined || this.#clock.monotonicMs() < this.#retryAtMs) return false;
    return this.#log.error !== undefined || this.#olderLogBytes + this.#log.bytes > this.#logBytesMaxNow();
  }

  async #trySnapshot(): Promise<void> {
    if (this.#log.error !== undefined) this.#warn(this.#log.error);
    try {
      await this.snapshot();
    } catch (err) {
      this.#warn(err);
      this.#retryAtMs = this.#clock.monotonicMs() + RETRY_INTERVAL_MS;
    }
  }

  #warn(err: unknown): void {
    this.#failures++;
    this.#logger.warn({ err, folder: this.#source.folder }, "the prefix index could not be written");
  }
}

import {
  type AuthorContext,
  type AuthorOptions,
  type AuthorScanOptions,
  abortCode,
  Background,
  type BatchResult,
  type BlockBatch,
  type ErrorCode,
  type KeyBatch,
  KvferryError,
  keyAt,
  keyHex,
  LookupState,
  newWriterName,
  OffloadBackend,
  Outcome,
  PriorityGate,
  packKeys,
  type ScanPage,
  setOutcome,
  slotBytes,
  storedBlockBytes,
  type Usage,
  uniformResult,
  untilAborted,
} from "@kvferry/core";
import { each, signalOfBatch } from "./at-once.js";
import { fastestChecksum } from "./checksum.js";
import { type ResolvedSftpConfig, resolveConfig, type SftpConfig } from "./config.js";
import { isFailure, isMissing, toSftpError } from "./errors.js";
import { describeNamespace, entriesOf, makeFolders, removeWriter, sweepWriters } from "./folders.js";
import { listBlocks } from "./inventory.js";
import { loadBlock } from "./load-block.js";
import { sftpManifest } from "./manifest.js";
import { BlockPaths } from "./paths.js";
import { ConnectionPool } from "./pool.js";
import { quarantineBlock } from "./quarantine.js";
import type { SftpSession } from "./session.js";
import { fileBytes, storeBlock } from "./store-block.js";

/** What became of one key. */
type Answer = readonly [outcome: Outcome, code?: ErrorCode | undefined];

/** What an open backend has. */
interface Opened {
  readonly paths: BlockPaths;
  /** Where this instance writes what has no name yet. */
  readonly ownFolder: string;
  readonly pool: ConnectionPool;
}

/** Keys of one call that are asked for at once; those of all calls are bounded by each session. */
const KEYS_AT_ONCE = 256;
/** Ms between two log lines about failures with the same code. */
const WARNING_PAUSE_MS = 60_000;

/** One file a block on a remote host, over SFTP. */
export class SftpBackend extends OffloadBackend {
  readonly #config: ResolvedSftpConfig;
  readonly #gate: PriorityGate;
  readonly #filesMax: number;
  readonly #background: Background = new Background();
  readonly #writer: string = newWriterName();
  readonly #storing: Map<string, number> = new Map();
  readonly #warnedAtMs: Map<ErrorCode, number> = new Map();
  #pool: ConnectionPool | undefined;
  #opened: Opened | undefined;
  #temporaries = 0;
  /** Blocks of loads and stores under way and waiting. */
  #queued = 0;

  /** @throws KvferryError CONFIG_INVALID with `context.field`. */
  constructor(config: SftpConfig) {
    super(sftpManifest);
    this.#config = resolveConfig(config);
    this.#filesMax = this.#config.connectionsMax * this.#config.filesPerConnectionMax;
    this.#gate = new PriorityGate(this.#filesMax);
  }

  /** Connections that stand. */
  get connections(): number {
    return this.#pool?.size ?? 0;
  }

  /** Requests that were sent and are not answered, over all connections. */
  get requests(): number {
    return this.#pool?.requests ?? 0;
  }

  protected override async _open(context: AuthorContext): Promise<void> {
    const { root, hostKeyCheck, host, fsync } = this.#config;
    const pool = new ConnectionPool(this.#config, context.clock, context.logger);
    this.#pool = pool;
    if (!hostKeyCheck)
      context.logger.warn({ host }, "the host's key is not checked: anybody in between can read and change blocks");
    const paths = new BlockPaths(root, context.namespace, context.keyBytes);
    const ownFolder = `${paths.writers}/${this.#writer}`;
    const prepare = async (): Promise<void> => {
      const session = await pool.session(context.signal);
      if (fsync && !session.has("fsync")) {
        throw new KvferryError(
          "CONFIG_INVALID",
          "sftp backend: 'fsync' is set, but the server has no fsync@openssh.com",
          {
            operation: "open",
            context: { field: "fsync", host },
          },
        );
      }
      try {
        await makeFolders(session, paths, ownFolder);
        await describeNamespace(session, paths, ownFolder, context);
      } catch (thrown) {
        throw toSftpError(thrown, "open", { host, path: paths.namespace });
      }
    };
    await untilAborted(this.#background.start(prepare), context.signal);
    this.#opened = { paths, ownFolder, pool };
    void this.#background.start(() => this.#sweep());
  }

  protected override async _lookup(keys: KeyBatch, options: AuthorOptions): Promise<Uint8Array> {
    const { paths, pool } = this.#live;
    const { signal, release } = signalOfBatch(options.signal);
    const states = new Uint8Array(keys.count);
    const bytes = storedBlockBytes(this.context.blockBytes);
    const ask = async (): Promise<void> => {
      const session = await pool.session(signal);
      const look = async (i: number): Promise<void> => {
        const key = keyAt(keys, i);
        const isBeingStored = this.#storing.has(keyHex(key));
        if ((await fileBytes(session, paths.block(key))) === bytes) states[i] = LookupState.HIT;
        else if (isBeingStored) states[i] = LookupState.PENDING;
      };
      await each(keys.count, KEYS_AT_ONCE, (i) => session.keyGate.run("load", signal, () => look(i)));
    };
    try {
      await untilAborted(this.#background.start(ask), signal);
    } catch (thrown) {
      if (signal?.aborted) throw thrown;
      throw this.#failed(thrown, "lookup");
    } finally {
      release();
    }
    return states;
  }

  protected override async _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const twins = firstOfEqual(batch.keys);
    const result = await this.#moving(
      "store",
      batch.keys,
      options,
      (i, signal) => this.#storeOne(batch, i, signal),
      twins,
    );
    for (const [i, first] of twins) {
      const outcome = result.outcomes[first] as Outcome;
      result.outcomes[i] = outcome === Outcome.STORED ? Outcome.PRESENT : outcome;
      result.codes[i] = result.codes[first] as number;
    }
    return result;
  }

  protected override _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#moving("load", batch.keys, options, (i, signal) => this.#loadOne(batch, i, signal));
  }

  protected override async _remove(keys: KeyBatch, options: AuthorOptions): Promise<BatchResult> {
    const { paths, pool } = this.#live;
    const { signal, release } = signalOfBatch(options.signal);
    const result = uniformResult(keys.count, Outcome.FAILED);
    const remove = async (session: SftpSession, i: number): Promise<void> => {
      try {
        await session.keyGate.run("store", signal, () => session.removeFile(paths.block(keyAt(keys, i))));
        setOutcome(result, i, Outcome.REMOVED);
      } catch (thrown) {
        if (isMissing(thrown)) setOutcome(result, i, Outcome.MISS);
        else
          setOutcome(
            result,
            i,
            Outcome.FAILED,
            signal?.aborted ? abortCode(signal) : this.#failed(thrown, "remove").code,
          );
      }
    };
    const work = async (): Promise<void> => {
      const session = await pool.session(signal);
      await each(keys.count, KEYS_AT_ONCE, (i) => remove(session, i));
    };
    try {
      await untilAborted(this.#background.start(work), signal);
      return result;
    } finally {
      release();
    }
  }

  protected override async *_scan({ pageEntriesMax, signal }: AuthorScanOptions): AsyncGenerator<ScanPage> {
    const { paths, pool } = this.#live;
    try {
      for await (const entries of listBlocks(await pool.session(signal), paths, signal)) {
        for (let at = 0; at < entries.length; at += pageEntriesMax) yield entries.slice(at, at + pageEntriesMax);
      }
    } catch (thrown) {
      throw signal?.aborted ? thrown : this.#failed(thrown, "scan");
    }
  }

  /** Lists all folders of the namespace. The capacity is what blocks take and what the file system still has for them. */
  protected override async _usage(): Promise<Usage> {
    const { paths, pool } = this.#live;
    try {
      const session = await pool.session();
      let [bytes, blocks] = [0, 0];
      for await (const entries of listBlocks(session, paths)) {
        blocks += entries.length;
        for (const entry of entries) bytes += entry.bytes;
      }
      if (!session.has("statvfs")) return { bytes, blocks, capacityBytes: undefined };
      return { bytes, blocks, capacityBytes: bytes + (await session.fileSystem(paths.blocks)).availableBytes };
    } catch (thrown) {
      throw this.#failed(thrown, "usage");
    }
  }

  /** What was abandoned and hangs is waited for as long as `closeTimeoutMs`; then the connections are cut, which ends it. */
  protected override async _close(): Promise<void> {
    const pool = this.#pool;
    if (pool === undefined) return;
    const timer = setTimeout(() => pool.close(), this.#config.closeTimeoutMs);
    try {
      await this.#background.idle();
      if (this.#opened !== undefined && pool.size > 0) await this.#removeOwnFolder(this.#opened);
    } catch {
      // the folder is empty, and swept by whoever opens next
    } finally {
      clearTimeout(timer);
      pool.close();
    }
  }

  get #live(): Opened {
    return this.#opened as Opened; // set by _open, before any call
  }

  /** Outcomes of a batch of loads or stores, a bounded number at once. Keys in `except` are left to the caller. */
  async #moving(
    operation: "load" | "store",
    keys: KeyBatch,
    options: AuthorOptions,
    step: (index: number, signal: AbortSignal | undefined) => Promise<Answer>,
    except?: ReadonlyMap<number, number>,
  ): Promise<BatchResult> {
    const { count } = keys;
    if (this.#queued > 0 && this.#queued + count > this.#config.queueBlocksMax) {
      return uniformResult(count, operation === "store" ? Outcome.DROPPED : Outcome.FAILED, "BUSY");
    }
    const result = uniformResult(count, Outcome.FAILED);
    const { priority } = options;
    const { signal, release } = signalOfBatch(options.signal);
    this.#queued += count;
    try {
      await each(count, this.#filesMax, async (i) => {
        if (except?.has(i)) return;
        try {
          // the place is taken until the last request has ended, also of a file that the caller has abandoned
          const moving = this.#background.start(() => this.#gate.run(priority, signal, () => step(i, signal)));
          setOutcome(result, i, ...(await untilAborted(moving, signal)));
        } catch (thrown) {
          const code = signal?.aborted ? abortCode(signal) : this.#failed(thrown, operation).code;
          setOutcome(result, i, Outcome.FAILED, code);
        }
      });
    } finally {
      release();
      this.#queued -= count;
    }
    return result;
  }

  async #storeOne(batch: BlockBatch, index: number, signal: AbortSignal | undefined): Promise<Answer> {
    const { paths, pool, ownFolder } = this.#live;
    const { namespace, blockBytes, clock } = this.context;
    const key = keyAt(batch.keys, index).slice(); // the caller may reuse its keys after an abort
    const text = keyHex(key);
    const slot = slotBytes(batch.region, batch.slots[index] as number, blockBytes);
    const store = {
      ...{ path: paths.block(key), slot, temporary: `${ownFolder}/${this.#temporaries++}` },
      footer: { key, namespaceDigest: namespace.digest, storedAtMs: clock.nowMs(), writer: this.#writer },
    };
    const { fsync, requestsPerFileMax: requestsMax } = this.#config;
    const settings = { requestsMax, fsync, checksum: fastestChecksum(), signal };
    this.#storing.set(text, (this.#storing.get(text) ?? 0) + 1);
    try {
      return await pool.moving(signal, async (session): Promise<Answer> => {
        const attempt = () => storeBlock(session, store, settings, (thrown) => this.#explain(session, thrown));
        try {
          return [await attempt()];
        } catch (thrown) {
          if (!isMissing(thrown)) throw thrown;
          await makeFolders(session, paths, ownFolder); // somebody has cleaned up a little too much
          return [await attempt()];
        }
      });
    } finally {
      const left = (this.#storing.get(text) ?? 1) - 1;
      if (left === 0) this.#storing.delete(text);
      else this.#storing.set(text, left);
    }
  }

  async #loadOne(batch: BlockBatch, index: number, signal: AbortSignal | undefined): Promise<Answer> {
    const { paths, pool } = this.#live;
    const { namespace, blockBytes } = this.context;
    const key = keyAt(batch.keys, index).slice();
    const load = {
      ...{ key, path: paths.block(key), namespaceDigest: namespace.digest, blockBytes },
      slot: slotBytes(batch.region, batch.slots[index] as number, blockBytes),
    };
    const settings = { requestsMax: this.#config.requestsPerFileMax, checksum: fastestChecksum(), signal };
    return pool.moving(signal, async (session): Promise<Answer> => {
      const { outcome, code } = await loadBlock(session, load, settings);
      if (outcome === Outcome.CORRUPT) await this.#setAside(session, key);
      return [outcome, code];
    });
  }

  async #setAside(session: SftpSession, key: Uint8Array): Promise<void> {
    const { paths } = this.#live;
    const { clock, logger } = this.context;
    const facts = { host: this.#config.host, path: paths.block(key) };
    try {
      await quarantineBlock(session, paths, { key, nowMs: clock.nowMs(), filesMax: this.#config.quarantineFilesMax });
      logger.warn(facts, "a damaged block was found and set aside");
    } catch (thrown) {
      const err = toSftpError(thrown, "load", facts);
      logger.warn({ err, ...facts }, "a damaged block was found and could not be set aside");
    }
    this.announceRemoved(packKeys([key]), "corrupt");
  }

  /** SFTP has no word for a full disk or a read-only one: the file system is asked. */
  async #explain(session: SftpSession, thrown: unknown): Promise<void> {
    if (!isFailure(thrown) || !session.has("statvfs")) return;
    const { paths } = this.#live;
    const { host } = this.#config;
    const { availableBytes, availableFiles, readOnly } = await session.fileSystem(paths.namespace);
    const details = { operation: "store", context: { host, path: paths.namespace, availableBytes } };
    if (readOnly) throw new KvferryError("READ_ONLY", `sftp: ${host}: the file system is read-only`, details);
    if (availableBytes >= storedBlockBytes(this.context.blockBytes) && availableFiles > 0) return;
    throw new KvferryError(
      "NO_SPACE",
      `sftp: ${host}: the file system is full (${availableBytes} bytes are left)`,
      details,
    );
  }

  async #sweep(): Promise<void> {
    const { paths, pool, ownFolder } = this.#live;
    const { logger } = this.context;
    const { host, tempLeftoverMs } = this.#config;
    try {
      const swept = await sweepWriters(await pool.session(), paths, ownFolder, tempLeftoverMs);
      if (swept > 0) logger.info({ host, swept }, "what writers that are gone had left was removed");
    } catch (thrown) {
      const err = toSftpError(thrown, "open", { host, path: paths.writers });
      if (err.code === "CLOSED") return; // the next open sweeps
      logger.warn({ err, host }, "what writers that are gone have left could not be removed");
    }
  }

  async #removeOwnFolder({ pool, ownFolder }: Opened): Promise<void> {
    const session = await pool.session();
    await removeWriter(session, ownFolder, await entriesOf(session, ownFolder));
  }

  /** What was thrown, as our error; the log has it in full, but not once a key. */
  #failed(thrown: unknown, operation: string): KvferryError {
    const { host } = this.#config;
    const err = toSftpError(thrown, operation, { host, path: this.#opened?.paths.namespace });
    const nowMs = this.context.clock.monotonicMs();
    const before = this.#warnedAtMs.get(err.code);
    if (before === undefined || nowMs - before >= WARNING_PAUSE_MS) {
      this.#warnedAtMs.set(err.code, nowMs);
      this.context.logger.warn({ err, host }, `a ${operation} over SFTP has failed`);
    }
    return err;
  }
}

/** For each key that was in the batch before: its position, and that of the first one. */
function firstOfEqual(keys: KeyBatch): Map<number, number> {
  const first = new Map<string, number>();
  const twins = new Map<number, number>();
  for (let i = 0; i < keys.count; i++) {
    const text = keyHex(keyAt(keys, i));
    const of = first.get(text);
    if (of === undefined) first.set(text, i);
    else twins.set(i, of);
  }
  return twins;
}

import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import {
  type AuthorContext,
  type AuthorOptions,
  type AuthorScanOptions,
  abortCode,
  type BatchResult,
  type BlockBatch,
  type CapacityPace,
  countOutcome,
  type ErrorCode,
  type KeyBatch,
  KvferryError,
  keyAt,
  LookupState,
  OffloadBackend,
  Outcome,
  packKeys,
  RecordKind,
  type RootStatus,
  type ScanPage,
  selectKeys,
  setOutcome,
  slotBytes,
  storedBlockBytes,
  THRIFTY_PACE,
  toKvferryError,
  type Usage,
  uniformResult,
} from "@kvferry/core";
import { Background, untilAborted } from "./background.js";
import { copyOf, firstOfEqual, keysWith } from "./batch-keys.js";
import { acquirePrefix } from "./capacity/root.js";
import { CapacityShare } from "./capacity/share.js";
import type { StoreRoom } from "./capacity/store-room.js";
import { type RunningChecksum, runningChecksum } from "./checksum.js";
import { type ResolvedS3Config, resolveConfig, type S3Config } from "./config.js";
import { Inventory } from "./inventory.js";
import { KnownKeys } from "./known-keys.js";
import { loadBlock } from "./load-block.js";
import { LookupPlan } from "./lookup.js";
import { s3Manifest } from "./manifest.js";
import { ObjectNames } from "./names.js";
import { abortLeftovers, describeAndProbe } from "./open-checks.js";
import { quarantineBlock } from "./quarantine.js";
import { BlockRemover } from "./remove-blocks.js";
import { type RequestOptions, S3Requests } from "./requests.js";
import { storeBlock } from "./store-block.js";

/** What became of one key. */
type Answer = readonly [outcome: Outcome, code?: ErrorCode | undefined];

/** What an open backend has. */
interface Opened {
  readonly names: ObjectNames;
  readonly requests: S3Requests;
  readonly known: KnownKeys;
  readonly inventory: Inventory;
  readonly remover: BlockRemover;
  readonly checksum: RunningChecksum;
  readonly conditional: boolean;
}

/** One object a block in an S3 bucket; docs/s3.md. */
export class S3Backend extends OffloadBackend {
  readonly #config: ResolvedS3Config;
  readonly #stopping: AbortController = new AbortController();
  readonly #background: Background = new Background();
  readonly #writer: string = `${hostname().slice(0, 32)}-${process.pid}-${randomBytes(6).toString("hex")}`;
  #requests: S3Requests | undefined;
  #opened: Opened | undefined;
  /** With a capacity. */
  #share: CapacityShare | undefined;
  /** Blocks of loads and stores under way and waiting. */
  #queued = 0;

  readonly #pace: CapacityPace;

  /** @param pace of servers that share a capacity; all of them have the same. The default is meant for storages where requests cost money.
   * @throws KvferryError CONFIG_INVALID with `context.field`. */
  constructor(config: S3Config, pace: CapacityPace = THRIFTY_PACE) {
    super(s3Manifest);
    this.#config = resolveConfig(config);
    this.#pace = pace;
  }

  /** Whether the storage was found to honour If-None-Match; undefined before open. */
  get conditional(): boolean | undefined {
    return this.#opened?.conditional;
  }

  /** Requests on their way, and those that wait for their turn. */
  get requests(): { readonly running: number; readonly waiting: number } {
    const { running = 0, waiting = 0 } = this.#requests?.gate ?? {};
    return { running, waiting };
  }

  /** What this process knows of the prefix's capacity; undefined without one, and before open. */
  get rootStatus(): RootStatus | undefined {
    return this.#share?.status;
  }

  protected override async _open(context: AuthorContext): Promise<void> {
    const { prefix, missTtlMs, uploadLeftoverMs } = this.#config;
    const requests = new S3Requests(this.#config);
    this.#requests = requests;
    const names = new ObjectNames(prefix, context.namespace, context.keyBytes);
    const options: RequestOptions = { signal: context.signal, priority: "load" };
    const conditional = await describeAndProbe(requests, names, context, options);
    const known = new KnownKeys(context.keyBytes, missTtlMs, () => context.clock.monotonicMs());
    const [background, stopping] = [this.#background, this.#stopping.signal];
    const inventory = new Inventory({ requests, names, known, context, background, stopping });
    this.#opened = {
      ...{ names, requests, conditional, known, inventory },
      remover: new BlockRemover(requests),
      checksum: runningChecksum(),
    };
    await this.#joinCapacity(context, this.#opened);
    try {
      await untilAborted(inventory.begin(), context.signal);
    } catch (thrown) {
      await this.#share?.close();
      throw thrown;
    }
    const leftovers = { olderThanMs: uploadLeftoverMs, context };
    const inBackground: RequestOptions = { signal: stopping, priority: "store" };
    void this.#background.start(() => abortLeftovers(requests, names, leftovers, inBackground));
  }

  protected override async _lookup(keys: KeyBatch, options: AuthorOptions): Promise<Uint8Array> {
    const { known } = this.#live;
    if (known.complete) {
      const plan = new LookupPlan(keys, known);
      for (let ask = plan.next(); ask.length > 0; ask = plan.next()) await this.#ask(keys, ask, plan.states, options);
      return this.#tellOrder(keys, plan.states);
    }
    const states = new Uint8Array(keys.count);
    if (known.lookup(keys, states) === 0) return this.#tellOrder(keys, states);
    const ask: number[] = [];
    for (let i = 0; i < keys.count; i++) {
      if (states[i] === LookupState.MISS && !known.isMiss(keyAt(keys, i))) ask.push(i);
    }
    await this.#ask(keys, ask, states, options);
    return this.#tellOrder(keys, states);
  }

  protected override _lookupNow(keys: KeyBatch): Uint8Array | undefined {
    const { known } = this.#live;
    if (!known.complete) {
      const states = new Uint8Array(keys.count);
      return known.lookup(keys, states) === 0 ? this.#tellOrder(keys, states) : undefined;
    }
    const plan = new LookupPlan(keys, known);
    return plan.next().length === 0 ? this.#tellOrder(keys, plan.states) : undefined;
  }

  protected override async _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const twins = firstOfEqual(batch.keys);
    const room = await this.#reserve(batch.keys, twins, options);
    let result: BatchResult;
    try {
      result = await this.#moving("store", batch.keys, options, async (i) =>
        twins.has(i) ? undefined : this.#storeOne(batch, i, room, options),
      );
    } finally {
      room?.settle();
    }
    for (const [i, first] of twins) {
      const outcome = result.outcomes[first] as number;
      result.outcomes[i] = outcome === Outcome.STORED ? Outcome.PRESENT : outcome;
      result.codes[i] = result.codes[first] as number;
    }
    return result;
  }

  protected override async _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const keys = this.#share === undefined ? batch.keys : copyOf(batch.keys);
    const gone: number[] = [];
    const result = await this.#moving("load", keys, options, (i) =>
      this.#loadOne({ ...batch, keys }, i, options, () => gone.push(i)),
    );
    if (this.#share !== undefined && countOutcome(result, Outcome.LOADED) > 0) {
      this.#share.tell(RecordKind.USED, keysWith(keys, result, Outcome.LOADED));
    }
    this.#share?.tell(RecordKind.GONE, selectKeys(keys, gone));
    return result;
  }

  protected override async _remove(keys: KeyBatch, options: AuthorOptions): Promise<BatchResult> {
    const { known, names, remover } = this.#live;
    const result = uniformResult(keys.count, Outcome.MISS);
    const twins = firstOfEqual(keys);
    const positions = Array.from({ length: keys.count }, (_, i) => i).filter((i) => !twins.has(i));
    const there: number[] = [];
    const unknown = positions.filter((i) => !known.has(keyAt(keys, i)));
    const failures = new Map<number, unknown>();
    known.removals++;
    try {
      const found = new Set(await this.#existing(keys, unknown, options, failures));
      for (const i of positions) if (found.has(i) || known.has(keyAt(keys, i))) there.push(i);
      const errors = await remover.remove(
        there.map((i) => names.block(keyAt(keys, i))),
        requestOptions(options),
      );
      for (const i of there) {
        const key = keyAt(keys, i);
        const error = errors.get(names.block(key));
        if (error !== undefined) failures.set(i, error);
        else {
          known.delete(key);
          setOutcome(result, i, Outcome.REMOVED);
        }
      }
    } finally {
      known.removals++;
    }
    this.#share?.tell(RecordKind.GONE, keysWith(keys, result, Outcome.REMOVED));
    for (const [i, error] of failures) setOutcome(result, i, Outcome.FAILED, this.#codeOf(error, "remove", options));
    return result;
  }

  protected override async *_scan({ pageEntriesMax, signal }: AuthorScanOptions): AsyncGenerator<ScanPage> {
    for await (const entries of this.#live.inventory.blocks({ signal, priority: "store" })) {
      for (let at = 0; at < entries.length; at += pageEntriesMax) yield entries.slice(at, at + pageEntriesMax);
    }
  }

  /** By the index of this process: what other hosts have stored or removed counts from the next listing on. */
  protected override async _usage(): Promise<Usage> {
    const { inventory, known } = this.#live;
    await inventory.refresh(this.#config.usageMaxAgeMs);
    return {
      bytes: known.size * storedBlockBytes(this.context.blockBytes),
      blocks: known.size,
      capacityBytes: this.#config.capacityBytes,
    };
  }

  protected override async _close(): Promise<void> {
    this.#stopping.abort();
    await this.#background.idle();
    await this.#share?.close();
    this.#requests?.close();
  }

  get #live(): Opened {
    return this.#opened as Opened; // set by _open, before any call
  }

  /** Outcomes of a batch of loads or stores, a bounded number at once. A step that answers undefined leaves its key to the caller. */
  async #moving(
    operation: "load" | "store",
    keys: KeyBatch,
    options: AuthorOptions,
    step: (index: number) => Promise<Answer | undefined>,
  ): Promise<BatchResult> {
    const { count } = keys;
    if (this.#queued > 0 && this.#queued + count > this.#config.queueBlocksMax) {
      return uniformResult(count, operation === "store" ? Outcome.DROPPED : Outcome.FAILED, "BUSY");
    }
    const result = uniformResult(count, Outcome.FAILED);
    this.#queued += count;
    try {
      await this.#each(count, async (i) => {
        try {
          options.signal?.throwIfAborted();
          const answer = await step(i);
          if (answer !== undefined) setOutcome(result, i, ...answer);
        } catch (thrown) {
          setOutcome(result, i, Outcome.FAILED, this.#codeOf(thrown, operation, options));
        }
      });
    } finally {
      this.#queued -= count;
    }
    return result;
  }

  async #storeOne(
    batch: BlockBatch,
    index: number,
    room: StoreRoom | undefined,
    options: AuthorOptions,
  ): Promise<Answer> {
    const { known, names, requests, conditional, checksum } = this.#live;
    const { namespace, blockBytes, clock } = this.context;
    const key = keyAt(batch.keys, index).slice(); // the caller may reuse its keys after an abort
    if (known.has(key)) return [Outcome.PRESENT];
    if (room?.has(index) === false) return this.#withoutRoom();
    const { removals } = known;
    const sending = { ...requestOptions(options), onSent: () => room?.isUnknown(index) };
    known.beginStoring(key);
    try {
      const store = {
        name: names.block(key),
        slot: slotBytes(batch.region, batch.slots[index] as number, blockBytes),
        footer: { key, namespaceDigest: namespace.digest, storedAtMs: clock.nowMs(), writer: this.#writer },
      };
      const { multipartFromBytes, partBytes } = this.#config;
      const settings = { multipartFromBytes, partBytes, checksum, conditional, inBackground: this.#inBackground };
      const outcome = await storeBlock(requests, store, settings, sending);
      room?.isThere(index);
      if (removals === known.removals) known.add(key);
      else await this.#noteIfThere(key, options);
      return [outcome];
    } finally {
      known.endStoring(key);
    }
  }

  #withoutRoom(): Answer {
    const trouble = this.#share?.trouble;
    return trouble === undefined ? [Outcome.DROPPED, "NO_SPACE"] : [Outcome.FAILED, trouble];
  }

  /** @param noteGone called for a block that should be there and is not. */
  async #loadOne(batch: BlockBatch, index: number, options: AuthorOptions, noteGone: () => void): Promise<Answer> {
    const { known, names, requests, checksum } = this.#live;
    const { namespace, blockBytes } = this.context;
    const key = keyAt(batch.keys, index).slice();
    const { removals } = known;
    const wasKnown = known.has(key);
    const { rangeFromBytes, partBytes } = this.#config;
    const load = {
      ...{ key, name: names.block(key), namespaceDigest: namespace.digest, blockBytes },
      slot: slotBytes(batch.region, batch.slots[index] as number, blockBytes),
    };
    const read = () => loadBlock(requests, load, { rangeFromBytes, partBytes, checksum }, requestOptions(options));
    let verdict = await read();
    // damage on the way must not cost a block that is whole where it lies: a second look decides
    if (verdict.outcome === Outcome.CORRUPT) verdict = await read();
    if (verdict.outcome === Outcome.LOADED) {
      if (removals === known.removals) known.add(key);
    } else if (verdict.outcome === Outcome.CORRUPT) {
      await untilAborted(this.#setAside(key), options.signal);
    } else if (wasKnown) {
      known.delete(key); // another host has removed it
      noteGone();
    }
    return [verdict.outcome, verdict.code];
  }

  #setAside(key: Uint8Array): Promise<void> {
    const { known, names, requests } = this.#live;
    const { clock, logger } = this.context;
    const { quarantineObjectsMax } = this.#config;
    return this.#background.start(async () => {
      known.removals++;
      const share = quarantineObjectsMax > 0 ? this.#share : undefined;
      const hasRoom = await share?.reserveCopy();
      try {
        const objectsMax = hasRoom === false ? 0 : quarantineObjectsMax;
        await quarantineBlock(requests, names, { key, nowMs: clock.nowMs(), objectsMax }, logger);
        logger.warn({ ...requests.place, object: names.block(key) }, "a damaged block was found and set aside");
      } catch (err) {
        logger.warn({ err, ...requests.place }, "a damaged block was found and could not be set aside");
      } finally {
        if (hasRoom) share?.copied();
        known.delete(key);
        known.removals++;
      }
      this.#share?.tell(RecordKind.GONE, packKeys([key]));
      this.announceRemoved(packKeys([key]), "corrupt");
    });
  }

  /** @throws KvferryError CONFIG_INVALID where the storage cannot elect a leader. */
  async #joinCapacity(context: AuthorContext, opened: Opened): Promise<void> {
    const { conditional, requests, names, known, inventory } = opened;
    const { capacityBytes } = this.#config;
    if (capacityBytes === undefined) return;
    if (!conditional) {
      const text =
        "s3: open: 'capacityBytes' needs a storage that honours If-None-Match, and this one overwrites all the same: servers could not agree on who evicts; leave it out, or let a lifecycle rule expire blocks";
      throw new KvferryError("CONFIG_INVALID", text, { operation: "open", context: { field: "capacityBytes" } });
    }
    const { clock, logger } = context;
    const shared = await acquirePrefix({ config: this.#config, capacityBytes, pace: this.#pace, clock, logger });
    this.#share = new CapacityShare({
      ...{ shared, pace: this.#pace, context, requests, names, known, stopping: this.#stopping.signal },
      announce: (keys) => this.announceRemoved(keys, "evicted"),
      relist: () => {
        void this.#background.start(() => inventory.refresh(0));
      },
    });
  }

  /** Room for what a store does not know to be there; undefined without a capacity. */
  async #reserve(
    keys: KeyBatch,
    twins: ReadonlyMap<number, number>,
    { signal }: AuthorOptions,
  ): Promise<StoreRoom | undefined> {
    if (this.#share === undefined) return undefined;
    const { known } = this.#live;
    const positions = Array.from({ length: keys.count }, (_, i) => i);
    const wanted = positions.filter((i) => !twins.has(i) && !known.has(keyAt(keys, i)));
    return this.#share.reserve(keys, wanted, signal);
  }

  /** Tells the evictor the order of a request's blocks, if any of them is there. */
  #tellOrder(keys: KeyBatch, states: Uint8Array): Uint8Array {
    if (keys.count > 1 && states.includes(LookupState.HIT)) this.#share?.tell(RecordKind.OBSERVED, keys);
    return states;
  }

  /** For a key that another call may have removed while this one stored it: asks until no removal is under way. */
  async #noteIfThere(key: Uint8Array, options: AuthorOptions): Promise<void> {
    const { known, names, requests } = this.#live;
    for (;;) {
      const { removals } = known;
      const head = await requests.head(names.block(key), requestOptions(options));
      if (removals !== known.removals) continue;
      if (this.#isWhole(head)) known.add(key);
      return;
    }
  }

  async #ask(keys: KeyBatch, positions: readonly number[], states: Uint8Array, options: AuthorOptions): Promise<void> {
    const { known } = this.#live;
    const { removals } = known;
    const found = new Set(await this.#existing(keys, positions, options));
    for (const i of positions) {
      const key = keyAt(keys, i);
      if (!found.has(i)) known.noteMiss(key);
      else {
        states[i] = LookupState.HIT;
        if (removals === known.removals) known.add(key);
      }
    }
  }

  /** Of these positions those whose block is there. Failures are noted, or thrown where there is nowhere to note them. */
  async #existing(
    keys: KeyBatch,
    positions: readonly number[],
    options: AuthorOptions,
    failures?: Map<number, unknown>,
  ): Promise<number[]> {
    const { names, requests } = this.#live;
    const found: number[] = [];
    await this.#each(positions.length, async (n) => {
      const i = positions[n] as number;
      try {
        if (this.#isWhole(await requests.head(names.block(keyAt(keys, i)), requestOptions(options)))) found.push(i);
      } catch (thrown) {
        if (failures === undefined) throw thrown;
        failures.set(i, thrown);
      }
    });
    return found;
  }

  #isWhole(head: { readonly bytes: number | undefined } | undefined): boolean {
    return head !== undefined && (head.bytes ?? -1) === storedBlockBytes(this.context.blockBytes);
  }

  readonly #inBackground = (task: () => Promise<void>): void => {
    void this.#background.start(task);
  };

  #codeOf(thrown: unknown, operation: string, { signal }: AuthorOptions): ErrorCode {
    return signal?.aborted ? abortCode(signal) : toKvferryError(thrown, operation).code;
  }

  /** Runs a step for each of a number of things, no more at once than there are sockets, and waits for all of them, also when one throws. */
  async #each(count: number, step: (index: number) => Promise<void>): Promise<void> {
    let next = 0;
    const work = async (): Promise<void> => {
      while (next < count) await step(next++);
    };
    const workers = Array.from({ length: Math.min(count, this.#config.socketsMax) }, work);
    const failed = (await Promise.allSettled(workers)).find(({ status }) => status === "rejected");
    if (failed !== undefined) await Promise.reject((failed as PromiseRejectedResult).reason);
  }
}

function requestOptions({ signal, priority }: AuthorOptions): RequestOptions {
  return { signal, priority };
}

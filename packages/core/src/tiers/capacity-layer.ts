import type { AuthorContext, BlockBatch, OffloadBackend, RemovalReason, Usage } from "../backend.js";
import { mergeResult, selectBatch } from "../batches.js";
import { type AuthorOptions, abortCode } from "../call.js";
import { KvferryError, toKvferryError } from "../errors.js";
import { DEFAULT_POLICY, policyNamed } from "../eviction/policies.js";
import type { PolicyFactory } from "../eviction/policy.js";
import { KeySet } from "../key-set.js";
import { type KeyBatch, keyAt, packKeys, selectKeys } from "../keys.js";
import { Layer } from "../layers/layer.js";
import { type BatchResult, Outcome, outcomeCode, uniformResult } from "../outcomes.js";
import { NO_ROW } from "../prefix-index/block-table.js";
import { BlockLedger } from "./block-ledger.js";
import { type EvictingListener, EvictingListeners, type EvictionSource } from "./evictions.js";
import { unlessAborted } from "./waiting.js";

export interface CapacityConfig {
  /** Bytes of blocks, at most. */
  readonly capacityBytes: number;
  /** Which blocks go first: a name from POLICIES, or a policy of one's own. Default: DEFAULT_POLICY. */
  readonly policy?: string | PolicyFactory | undefined;
  /** Bytes that a block takes in this backend; default: the block's own. */
  readonly storedBytes?: ((blockBytes: number) => number) | undefined;
}

/**
 * Gives a backend that makes no room by itself a bound and a policy. Before blocks are stored, others are removed, so that the backend never holds more
 * than `capacityBytes`; what cannot be made room for (the backend does not remove, or calls are reading everything) is DROPPED with NO_SPACE.
 *
 * The bound counts what was there before: stores wait until the backend has been listed once. It holds for this instance alone: nobody else may store into
 * the same namespace of the backend. A block that a load is reading is not taken. Removed blocks are announced as "evicted".
 */
export class CapacityLayer extends Layer implements EvictionSource {
  readonly #config: CapacityConfig;
  readonly #evicting: EvictingListeners = new EvictingListeners();
  readonly #stopping: AbortController = new AbortController();
  #ledger: BlockLedger | undefined;
  #storedBytes = 0;
  #blocksMax = 0;
  /** Blocks that stores under way may add. */
  #reserved = 0;
  readonly #stores = { begun: 0, ended: 0 };
  /** Blocks that are being removed to make room: they are there still, and nobody finds them. */
  #leaving: KeySet | undefined;
  #removing: Promise<void> = Promise.resolve();
  #listing: Promise<boolean> | undefined;

  /** @throws KvferryError CONFIG_INVALID with `context.field`. */
  constructor(inner: OffloadBackend, config: CapacityConfig) {
    super(inner);
    checkConfig(inner, config);
    this.#config = config;
  }

  onEvicting(listener: EvictingListener): () => void {
    return this.#evicting.add(listener);
  }

  protected override async _open(context: AuthorContext): Promise<void> {
    const { capacityBytes, policy, storedBytes } = this.#config;
    this.#storedBytes = storedBytes?.(context.blockBytes) ?? context.blockBytes;
    this.#blocksMax = Math.floor(capacityBytes / this.#storedBytes);
    this.#ledger = new BlockLedger({
      keyBytes: context.keyBytes,
      capacityBlocks: Math.max(1, this.#blocksMax),
      policy: typeof policy === "function" ? policy : policyNamed(policy ?? DEFAULT_POLICY),
      clock: context.clock,
    });
    this.#leaving = new KeySet(context.keyBytes);
    this.inner.onRemoved((keys) => this.#forget(keys));
    await super._open(context);
    this.#listing = this.#list();
  }

  protected override async _lookup(keys: KeyBatch, options: AuthorOptions): Promise<Uint8Array> {
    const states = await super._lookup(keys, options);
    this.#blocks.noteLookup(keys);
    return states;
  }

  protected override _lookupNow(keys: KeyBatch): Uint8Array | undefined {
    const states = super._lookupNow(keys);
    if (states !== undefined) this.#blocks.noteLookup(keys);
    return states;
  }

  protected override async _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const { signal } = options;
    if (!(await unlessAborted(this.#listed(), signal))) {
      if (signal?.aborted) return uniformResult(batch.keys.count, Outcome.FAILED, abortCode(signal));
      return uniformResult(batch.keys.count, Outcome.DROPPED, "UNAVAILABLE");
    }
    while (this.#leave.size > 0 && this.#leave.hasMany(batch.keys, new Uint8Array(batch.keys.count)) > 0) {
      await this.#removing; // a block on its way out would be PRESENT, and then gone
    }
    const rows = new Int32Array(batch.keys.count);
    const wanted = batch.keys.count - this.#blocks.index.findMany(batch.keys, rows);
    this.#blocks.pin(rows);
    this.#reserved += wanted;
    this.#stores.begun++;
    try {
      const granted = wanted === 0 ? 0 : await this.#makeRoom(wanted);
      this.#reserved -= wanted - granted;
      return await this.#storeSome(batch, rows, granted, options);
    } finally {
      this.#stores.ended++;
      this.#blocks.unpin(rows);
    }
  }

  protected override async _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const rows = new Int32Array(batch.keys.count);
    const ledger = this.#blocks;
    ledger.index.findMany(batch.keys, rows);
    ledger.pin(rows);
    try {
      const result = await super._load(batch, options);
      ledger.noteLoad(batch.keys, rows);
      return result;
    } finally {
      ledger.unpin(rows);
    }
  }

  protected override async _remove(keys: KeyBatch, options: AuthorOptions): Promise<BatchResult> {
    const { ended } = this.#stores;
    const result = await super._remove(keys, options);
    const removed: number[] = [];
    for (let i = 0; i < keys.count; i++) if (result.outcomes[i] === Outcome.REMOVED) removed.push(i);
    if (ended === this.#stores.begun) this.#forget(selectKeys(keys, removed));
    return result;
  }

  protected override async _usage(): Promise<Usage> {
    return { ...(await super._usage()), capacityBytes: this.#config.capacityBytes };
  }

  protected override async _close(): Promise<void> {
    this.#stopping.abort();
    await this.#listing;
    await this.#removing;
    this.#ledger?.close();
    await super._close();
  }

  get #blocks(): BlockLedger {
    return this.#ledger as BlockLedger; // set by _open, before any call
  }

  get #leave(): KeySet {
    return this.#leaving as KeySet;
  }

  /** Whether the blocks that were there before are counted; tries again where that has failed. */
  async #listed(): Promise<boolean> {
    if (await this.#listing) return true;
    this.#listing = this.#list();
    return this.#listing;
  }

  async #list(): Promise<boolean> {
    try {
      for await (const page of this.inner.scan({ signal: this.#stopping.signal })) {
        const keys = packKeys(page.map(({ key }) => key));
        this.#count(keys, new Uint8Array(keys.count).fill(1));
      }
    } catch (thrown) {
      if (this.#stopping.signal.aborted) return false;
      const facts = { err: toKvferryError(thrown, "scan"), backend: this.manifest.name };
      this.context.logger.warn(facts, "could not list the blocks; nothing is stored before they are counted");
      return false;
    }
    await this.#makeRoom(0); // the bound may have become smaller
    return true;
  }

  /** Stores as many of the new blocks as there is room for; the others are DROPPED. */
  async #storeSome(batch: BlockBatch, rows: Int32Array, granted: number, options: AuthorOptions): Promise<BatchResult> {
    const { count } = batch.keys;
    let left = granted;
    const positions: number[] = [];
    for (let i = 0; i < count; i++) if (rows[i] !== NO_ROW || left-- > 0) positions.push(i);
    if (positions.length === count) return this.#storeAll(batch, granted, options);
    const result = uniformResult(count, Outcome.DROPPED, "NO_SPACE");
    if (positions.length === 0) return result;
    mergeResult(result, positions, await this.#storeAll(selectBatch(batch, positions), granted, options));
    return result;
  }

  async #storeAll(batch: BlockBatch, reserved: number, options: AuthorOptions): Promise<BatchResult> {
    const here = new Uint8Array(batch.keys.count).fill(1); // as it is where the call is cut short
    try {
      const result = await super._store(batch, options);
      for (let i = 0; i < here.length; i++) here[i] = mayBeThere(result, i) ? 1 : 0;
      return result;
    } finally {
      this.#count(batch.keys, here);
      this.#reserved -= reserved;
    }
  }

  #count(keys: KeyBatch, here: Uint8Array): void {
    this.#blocks.insert(keys, here, this.#storedBytes, new Int32Array(keys.count), new Uint8Array(keys.count));
  }

  /** Removes blocks until `wanted` more fit, or as many as can be; how many do. */
  async #makeRoom(wanted: number): Promise<number> {
    const ledger = this.#blocks;
    const excess = (): number => ledger.blocks + this.#leave.size + this.#reserved - this.#blocksMax;
    while (excess() > 0) {
      const victims: number[] = [];
      const chosen = Math.min(excess() - this.#leave.size, ledger.blocks, this.manifest.limits.batchKeysMax);
      const parts: Uint8Array[] = [];
      for (let left = chosen; left > 0; left--) {
        const row = ledger.victim();
        if (row === NO_ROW) break;
        parts.push(ledger.index.key(row));
        victims.push(row);
        this.#leave.add(parts.at(-1) as Uint8Array);
        ledger.drop(row);
      }
      if (parts.length > 0) {
        const leaving = this.#let(packKeys(parts));
        this.#removing = Promise.all([this.#removing, leaving]).then(() => {});
        if (!(await leaving)) break;
      } else if (this.#leave.size > 0) {
        await this.#removing;
      } else {
        break;
      }
    }
    return Math.max(0, Math.min(wanted, wanted - excess()));
  }

  /** Lets blocks go that the ledger has dropped; whether all of them have gone. */
  async #let(keys: KeyBatch): Promise<boolean> {
    let removed: BatchResult;
    try {
      await this.#evicting.tell({
        keys,
        load: (positions, region, slots, options) =>
          this.inner.load({ keys: selectKeys(keys, positions), region, slots }, options),
      });
      removed = await this.inner.remove(keys);
    } catch (thrown) {
      removed = uniformResult(keys.count, Outcome.FAILED, toKvferryError(thrown, "remove").code);
    }
    const gone: number[] = [];
    const stayed = new Uint8Array(keys.count);
    for (let i = 0; i < keys.count; i++) {
      this.#leave.delete(keyAt(keys, i));
      if (removed.outcomes[i] === Outcome.FAILED) stayed[i] = 1;
      else gone.push(i);
    }
    if (gone.length < keys.count) {
      this.context.logger.warn({ backend: this.manifest.name }, "could not remove blocks to make room");
      this.#count(keys, stayed);
    }
    if (gone.length > 0) this.announceRemoved(selectKeys(keys, gone), "evicted" satisfies RemovalReason);
    return gone.length === keys.count;
  }

  /** Not while anything is being stored: a block that goes and comes at the same time is counted, rather than not. What has gone all the same makes room in
   * its turn. */
  #forget(keys: KeyBatch): void {
    if (this.#stores.begun !== this.#stores.ended) return;
    const ledger = this.#blocks;
    const rows = new Int32Array(keys.count);
    ledger.index.findMany(keys, rows);
    for (const row of rows) if (row !== NO_ROW && ledger.index.tiers(row) !== 0) ledger.drop(row);
  }
}

/** Whether a block has to be counted: also one of which nobody knows how far its store came. */
function mayBeThere(result: BatchResult, index: number): boolean {
  const outcome = result.outcomes[index];
  if (outcome === Outcome.STORED || outcome === Outcome.PRESENT) return true;
  const code = outcome === Outcome.FAILED ? outcomeCode(result, index) : undefined;
  return code === "DEADLINE" || code === "ABORTED";
}

function checkConfig({ manifest }: OffloadBackend, { capacityBytes, policy }: CapacityConfig): void {
  const { name, capabilities } = manifest;
  if (!capabilities.scan || !capabilities.remove) {
    throw invalid("capacityBytes", `the backend ${name} must be able to scan and to remove, to be kept within a bound`);
  }
  if (!Number.isSafeInteger(capacityBytes) || capacityBytes < 0) {
    throw invalid("capacityBytes", `must be a whole number of bytes, got ${capacityBytes}`);
  }
  if (typeof policy !== "function" && policy !== undefined) policyNamed(policy);
}

function invalid(field: string, reason: string): KvferryError {
  return new KvferryError("CONFIG_INVALID", `capacity: ${field}: ${reason}`, {
    operation: "config",
    context: { field },
  });
}

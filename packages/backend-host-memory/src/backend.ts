import {
  type AuthorContext,
  type AuthorOptions,
  type AuthorScanOptions,
  type BatchResult,
  type BlockBatch,
  BlockLedger,
  DEFAULT_POLICY,
  type EvictingListener,
  EvictingListeners,
  type EvictionSource,
  type KeyBatch,
  KvferryError,
  LookupState,
  mergeResult,
  NO_ROW,
  OffloadBackend,
  Outcome,
  type PolicyFactory,
  policyNamed,
  type ScanEntry,
  type ScanPage,
  selectBatch,
  setOutcome,
  type Usage,
  uniformResult,
} from "@kvferry/core";
import type { ArenaMember, ExtentOffer, HostArena } from "./arena.js";
import { BlockFacts } from "./block-facts.js";
import { hostMemoryManifest } from "./manifest.js";
import { type HeldBlocks, type ReadOptions, Reads } from "./reads.js";
import { Slots } from "./slots.js";

export interface HostMemoryConfig {
  /** Where the blocks lie, beside those of other namespaces. Whoever made it closes it, after the backends. */
  readonly arena: HostArena;
  /** Which blocks go first: a name from core's POLICIES, or a policy of one's own. Default: DEFAULT_POLICY. */
  readonly policy?: string | PolicyFactory | undefined;
}

/**
 * Blocks in the memory of a node. Copies and checksums are made by the data plane's threads; every load verifies.
 *
 * It makes room by itself: by letting its own blocks go, the least worth first, or by taking the extent of another namespace that was used longer ago
 * than those. Whoever listens by `onEvicting` can copy blocks before they go; then they are announced as "evicted". A block that a call is reading stays, and so does
 * one that is held.
 */
export class HostMemoryBackend extends OffloadBackend implements EvictionSource {
  readonly #arena: HostArena;
  readonly #policy: string | PolicyFactory;
  readonly #evicting: EvictingListeners = new EvictingListeners();
  readonly #member: ArenaMember = {
    offer: () => this.#offer(),
    giveUp: (extent) => this.#giveUp(extent),
  };
  /** What has to end before it can be closed, besides calls. */
  readonly #underWay: Set<Promise<unknown>> = new Set();
  readonly #facts: BlockFacts = new BlockFacts();
  #ledger: BlockLedger | undefined;
  #slotsOrNone: Slots | undefined;
  #readsOrNone: Reads | undefined;
  #hasLeft = false;

  /** @throws KvferryError CONFIG_INVALID for a policy that does not exist. */
  constructor({ arena, policy = DEFAULT_POLICY }: HostMemoryConfig) {
    super(hostMemoryManifest);
    if (typeof policy === "string") policyNamed(policy);
    this.#arena = arena;
    this.#policy = policy;
  }

  /** Where the blocks lie. */
  get arena(): HostArena {
    return this.#arena;
  }

  /** Blocks that it takes now, at least, without letting any go.
   * @throws KvferryError NOT_OPEN unless it is open. */
  get roomBlocks(): number {
    this.#checkOpen();
    return this.#slots.freeSlots + this.#arena.freeExtents * this.#slots.extentSlotsMin;
  }

  onEvicting(listener: EvictingListener): () => void {
    return this.#evicting.add(listener);
  }

  /**
   * Verifies blocks where they lie, and keeps them there: until it is released, a held block is neither evicted nor moved, and its memory is not used again, not even
   * after `remove` or `close`. A key may be held any number of times. It is a use of the block; a damaged one is dropped, and announced.
   *
   * @throws KvferryError NOT_OPEN unless it is open, INVALID_ARGUMENT for keys of another length.
   */
  async hold(keys: KeyBatch, options: ReadOptions = {}): Promise<HeldBlocks> {
    this.#checkOpen();
    const { keyBytes } = this.context;
    if (keys.stride !== keyBytes) {
      throw new KvferryError("INVALID_ARGUMENT", `host-memory: keys have ${keys.stride} bytes, not ${keyBytes}`, {
        operation: "hold",
        context: { field: "keys.stride" },
      });
    }
    return this.#during(this.#reads.hold(keys, this.#find(keys), options));
  }

  /** Takes back one hold for each of the offsets that `hold` gave. May be called after `close`, too.
   * @throws KvferryError INVALID_ARGUMENT for an offset that is not held. */
  release(offsets: Iterable<number>): void {
    for (const offset of offsets) {
      const extent = this.#slots.extentOf(this.#reads.release(offset));
      if (this.#hasLeft && !this.#slots.isBusy(extent)) this.#arena.leave(this.#member, [extent]);
    }
  }

  protected override async _open({ keyBytes, blockBytes, clock, logger }: AuthorContext): Promise<void> {
    const { extentBytes, capacityBytes } = this.#arena;
    const slots = new Slots(blockBytes, extentBytes, capacityBytes);
    if (slots.strideBytes > extentBytes) {
      throw new KvferryError(
        "CONFIG_INVALID",
        `host-memory: a block of ${blockBytes} bytes does not fit into an extent of ${extentBytes}; set extentBytes to ${slots.strideBytes} or more`,
        { operation: "open", context: { field: "extentBytes" } },
      );
    }
    const policy = typeof this.#policy === "string" ? policyNamed(this.#policy) : this.#policy;
    const capacityBlocks = Math.floor(capacityBytes / slots.strideBytes);
    this.#ledger = new BlockLedger({ keyBytes, capacityBlocks, policy, clock });
    this.#slotsOrNone = slots;
    this.#readsOrNone = new Reads({
      arena: this.#arena,
      blocks: this.#ledger,
      slots,
      facts: this.#facts,
      blockBytes,
      logger,
      nowMs: () => clock.nowMs(),
      damaged: (keys) => this.announceRemoved(keys, "corrupt"),
    });
    this.#arena.join(this.#member);
  }

  protected override async _lookup(keys: KeyBatch): Promise<Uint8Array> {
    return this._lookupNow(keys);
  }

  protected override _lookupNow(keys: KeyBatch): Uint8Array {
    const rows = this.#find(keys);
    const states = new Uint8Array(keys.count);
    for (let i = 0; i < rows.length; i++) states[i] = rows[i] === NO_ROW ? LookupState.MISS : LookupState.HIT;
    this.#blocks.noteLookup(keys);
    return states;
  }

  protected override async _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const rows = this.#find(batch.keys);
    const lacking: number[] = [];
    for (let i = 0; i < rows.length; i++) if (rows[i] === NO_ROW) lacking.push(i);
    if (lacking.length === 0) return uniformResult(rows.length, Outcome.PRESENT);
    const slots = await this.#room(lacking.length);
    if (slots.length === rows.length) return this.#copyIn(batch, slots, options);
    const result = uniformResult(rows.length, Outcome.PRESENT);
    for (const i of lacking.slice(slots.length)) setOutcome(result, i, Outcome.DROPPED, "NO_SPACE");
    const positions = lacking.slice(0, slots.length);
    if (positions.length === 0) return result;
    mergeResult(result, positions, await this.#copyIn(selectBatch(batch, positions), slots, options));
    return result;
  }

  protected override async _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const rows = this.#find(batch.keys);
    const found: number[] = [];
    for (let i = 0; i < rows.length; i++) if (rows[i] !== NO_ROW) found.push(i);
    const { keys, region, slots } = batch;
    if (found.length === rows.length) return this.#reads.copyOut(keys, rows, region, slots, options);
    const result = uniformResult(rows.length, Outcome.MISS);
    if (found.length === 0) return result;
    const foundRows = Int32Array.from(found, (i) => rows[i] as number);
    const part = selectBatch(batch, found);
    mergeResult(result, found, await this.#reads.copyOut(part.keys, foundRows, region, part.slots, options));
    return result;
  }

  protected override async _remove(keys: KeyBatch): Promise<BatchResult> {
    const result = uniformResult(keys.count, Outcome.MISS);
    const rows = this.#find(keys);
    for (let i = 0; i < rows.length; i++) {
      const row = rows[i] as number;
      if (row === NO_ROW || this.#blocks.index.tiers(row) === 0) continue; // a key twice in the batch
      this.#reads.drop(row);
      setOutcome(result, i, Outcome.REMOVED);
    }
    return result;
  }

  protected override async *_scan({ pageEntriesMax }: AuthorScanOptions): AsyncGenerator<ScanPage> {
    const { index } = this.#blocks;
    const bytes = this.#slots.strideBytes;
    let page: ScanEntry[] = [];
    for (const row of index.rows()) {
      const storedAtMs = this.#facts.storedAtMs(row);
      page.push({ key: index.key(row), bytes, storedAtMs, usedAtMs: Math.max(storedAtMs, index.lastUseMs(row)) });
      if (page.length < pageEntriesMax) continue;
      yield page;
      page = [];
    }
    if (page.length > 0) yield page;
  }

  /** The capacity is that of the arena, which all namespaces share. */
  protected override async _usage(): Promise<Usage> {
    const { blocks } = this.#blocks;
    return { blocks, bytes: blocks * this.#slots.strideBytes, capacityBytes: this.#arena.capacityBytes };
  }

  protected override async _close(): Promise<void> {
    if (this.#slotsOrNone === undefined) return; // it was never open
    while (this.#underWay.size > 0) await Promise.allSettled(this.#underWay);
    const free = this.#slots.extents.filter((extent) => !this.#slots.isBusy(extent));
    this.#hasLeft = true;
    this.#arena.leave(this.#member, free);
    this.#blocks.close();
  }

  #checkOpen(): void {
    if (this.state !== "open") throw new KvferryError("NOT_OPEN", "host-memory: it is not open");
  }

  get #blocks(): BlockLedger {
    return this.#ledger as BlockLedger; // set by _open, before any call
  }

  get #slots(): Slots {
    return this.#slotsOrNone as Slots;
  }

  get #reads(): Reads {
    return this.#readsOrNone as Reads;
  }

  #find(keys: KeyBatch): Int32Array {
    const rows = new Int32Array(keys.count);
    this.#blocks.index.findMany(keys, rows);
    return rows;
  }

  /** Fills slots with blocks. Another call may store the same key at the same time: the first to end has it. */
  async #copyIn(
    batch: BlockBatch,
    slots: readonly number[],
    { signal, priority }: AuthorOptions,
  ): Promise<BatchResult> {
    const { keys, region } = batch;
    const checksums = new Uint32Array(keys.count);
    const here = new Uint8Array(keys.count);
    let result = uniformResult(keys.count, Outcome.FAILED, "INTERNAL");
    try {
      result = await this.#arena.engine.copyBlocks({
        from: region.bytes,
        fromRowBytes: region.rowBytes,
        fromSlots: batch.slots,
        to: this.#arena.region.bytes,
        toRowBytes: this.#slots.strideBytes,
        toSlots: Uint32Array.from(slots),
        blockBytes: this.context.blockBytes,
        checksums,
        mode: "compute",
        priority,
        signal,
      });
    } finally {
      for (let i = 0; i < here.length; i++) here[i] = result.outcomes[i] === Outcome.STORED ? 1 : 0;
      this.#keep(keys, slots, checksums, here, result);
    }
    return result;
  }

  #keep(
    keys: KeyBatch,
    slots: readonly number[],
    checksums: Uint32Array,
    here: Uint8Array,
    { outcomes }: BatchResult,
  ): void {
    const rows = new Int32Array(keys.count);
    const fresh = new Uint8Array(keys.count);
    this.#blocks.insert(keys, here, this.#slots.strideBytes, rows, fresh);
    const nowMs = this.context.clock.nowMs();
    for (let i = 0; i < slots.length; i++) {
      const slot = slots[i] as number;
      if (fresh[i] === 1) {
        const row = rows[i] as number;
        this.#facts.set(row, slot, checksums[i] as number, nowMs);
        this.#slots.fill(slot, row, nowMs);
      } else {
        this.#slots.putBack(slot);
        if (here[i] === 1) outcomes[i] = Outcome.PRESENT;
      }
    }
  }

  /** Slots for `count` blocks, or for as many as can be made room for. */
  async #room(count: number): Promise<number[]> {
    const slots = this.#slots.take(count);
    while (slots.length < count) {
      const nowMs = this.context.clock.nowMs();
      const extent = this.#arena.takeFree();
      if (extent !== undefined) {
        this.#slots.add(extent, nowMs);
      } else {
        const own = this.#blocks.victim();
        const usedAtMs = own === NO_ROW ? Number.POSITIVE_INFINITY : this.#blocks.index.lastUseMs(own);
        const taken = await this.#arena.takeFromOthers(this.#member, usedAtMs, nowMs);
        if (taken !== undefined) this.#slots.add(taken, nowMs);
        else if (this.#slots.freeSlots === 0) {
          const evicted = await this.#evict(count - slots.length);
          if (evicted.length === 0) break;
          slots.push(...evicted);
        }
      }
      slots.push(...this.#slots.take(count - slots.length));
    }
    return slots;
  }

  /** Lets up to `count` blocks go; their slots. */
  async #evict(count: number): Promise<number[]> {
    const { keyBytes } = this.context;
    const keys = new Uint8Array(count * keyBytes);
    const slots: number[] = [];
    const checksums: number[] = [];
    while (slots.length < count) {
      const row = this.#blocks.victim();
      if (row === NO_ROW) break;
      this.#blocks.index.copyKey(row, keys, slots.length * keyBytes);
      slots.push(this.#facts.slot(row));
      checksums.push(this.#facts.checksum(row));
      this.#blocks.drop(row);
    }
    const gone = { bytes: keys.subarray(0, slots.length * keyBytes), stride: keyBytes, count: slots.length };
    const free = this.#slots.reuse(slots); // at once, so that nobody takes their extent meanwhile
    await this.#letGo(gone, slots, checksums);
    return free;
  }

  /** Tells listeners of blocks that the ledger has dropped, and everyone when they have gone. Their slots are still theirs. */
  async #letGo(keys: KeyBatch, slots: readonly number[], checksums: readonly number[]): Promise<void> {
    if (keys.count === 0) return;
    if (this.#evicting.size > 0) {
      await this.#evicting.tell({
        keys,
        load: (positions, region, targets, options = {}) =>
          this.#reads.verify(
            Uint32Array.from(positions, (i) => slots[i] as number),
            Uint32Array.from(positions, (i) => checksums[i] as number),
            region,
            targets,
            options,
          ),
      });
    }
    this.announceRemoved(keys, "evicted");
  }

  #offer(): ExtentOffer | undefined {
    const coldest = this.#slots.coldest();
    if (coldest === undefined) return undefined;
    const victim = this.#blocks.victim();
    const victimUsedAtMs = victim === NO_ROW ? coldest.usedAtMs : this.#blocks.index.lastUseMs(victim);
    return { ...coldest, victimUsedAtMs };
  }

  async #giveUp(extent: number): Promise<boolean> {
    const given = this.#slots.giveUp(extent);
    if (given === undefined) return false;
    const { rows, slots } = given;
    const keys = this.#blocks.index.keysOf(rows);
    const checksums = rows.map((row) => this.#facts.checksum(row));
    for (const row of rows) this.#blocks.drop(row);
    const leaving = this.#letGo(keys, slots, checksums);
    await this.#during(leaving);
    return true;
  }

  async #during<T>(ending: Promise<T>): Promise<T> {
    this.#underWay.add(ending);
    try {
      return await ending;
    } finally {
      this.#underWay.delete(ending);
    }
  }
}

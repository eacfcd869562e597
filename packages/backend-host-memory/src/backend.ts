import {
  type AuthorContext,
  type AuthorOptions,
  type AuthorScanOptions,
  type BatchResult,
  type BlockBatch,
  BlockLedger,
  type CallOptions,
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
  type Region,
  type ScanEntry,
  type ScanPage,
  selectBatch,
  selectKeys,
  setOutcome,
  type Usage,
  uniformResult,
} from "@kvferry/core";
import type { ArenaMember, ExtentOffer, HostArena } from "./arena.js";
import { BlockFacts } from "./block-facts.js";
import { hostMemoryManifest } from "./manifest.js";
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
 * than those. Whoever listens by `onEvicting` can copy blocks before they go; then they are announced as "evicted". A block that a call is reading stays.
 */
export class HostMemoryBackend extends OffloadBackend implements EvictionSource {
  readonly #arena: HostArena;
  readonly #policy: string | PolicyFactory;
  readonly #evicting: EvictingListeners = new EvictingListeners();
  readonly #member: ArenaMember = {
    offer: () => this.#offer(),
    giveUp: (extent) => this.#giveUp(extent),
  };
  readonly #givingUp: Set<Promise<void>> = new Set();
  #ledger: BlockLedger | undefined;
  #slotsOrNone: Slots | undefined;
  #facts: BlockFacts = new BlockFacts();

  /** @throws KvferryError CONFIG_INVALID for a policy that does not exist. */
  constructor({ arena, policy = DEFAULT_POLICY }: HostMemoryConfig) {
    super(hostMemoryManifest);
    if (typeof policy === "string") policyNamed(policy);
    this.#arena = arena;
    this.#policy = policy;
  }

  /** Blocks that it takes now, at least, without letting any go.
   * @throws KvferryError NOT_OPEN unless it is open. */
  get roomBlocks(): number {
    if (this.state !== "open") throw new KvferryError("NOT_OPEN", "host-memory: it is not open");
    return this.#slots.freeSlots + this.#arena.freeExtents * this.#slots.extentSlotsMin;
  }

  onEvicting(listener: EvictingListener): () => void {
    return this.#evicting.add(listener);
  }

  protected override async _open({ keyBytes, blockBytes, clock }: AuthorContext): Promise<void> {
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
    if (found.length === rows.length) return this.#copyOut(batch, rows, options);
    const result = uniformResult(rows.length, Outcome.MISS);
    if (found.length === 0) return result;
    const foundRows = Int32Array.from(found, (i) => rows[i] as number);
    mergeResult(result, found, await this.#copyOut(selectBatch(batch, found), foundRows, options));
    return result;
  }

  protected override async _remove(keys: KeyBatch): Promise<BatchResult> {
    const result = uniformResult(keys.count, Outcome.MISS);
    const rows = this.#find(keys);
    for (let i = 0; i < rows.length; i++) {
      const row = rows[i] as number;
      if (row === NO_ROW || this.#blocks.index.tiers(row) === 0) continue; // a key twice in the batch
      this.#blocks.drop(row);
      this.#slots.release(this.#facts.slot(row));
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
    if (this.#slotsOrNone === undefined) return;
    while (this.#givingUp.size > 0) await Promise.all(this.#givingUp);
    this.#arena.leave(this.#member, this.#slots.extents);
    this.#blocks.close();
    this.#slotsOrNone = undefined;
  }

  get #blocks(): BlockLedger {
    return this.#ledger as BlockLedger; // set by _open, before any call
  }

  get #slots(): Slots {
    return this.#slotsOrNone as Slots;
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

  async #copyOut(batch: BlockBatch, rows: Int32Array, options: AuthorOptions): Promise<BatchResult> {
    const { keys, region, slots: targets } = batch;
    const slots = Uint32Array.from(rows, (row) => this.#facts.slot(row));
    const checksums = Uint32Array.from(rows, (row) => this.#facts.checksum(row));
    this.#blocks.pin(rows);
    this.#slots.beginReading(slots, this.context.clock.nowMs());
    try {
      const result = await this.#verify(slots, checksums, region, targets, options);
      this.#blocks.noteLoad(keys, rows);
      if (result.outcomes.includes(Outcome.CORRUPT)) this.#dropDamaged(keys, rows, slots, result);
      return result;
    } finally {
      this.#slots.endReading(slots);
      this.#blocks.unpin(rows);
    }
  }

  #verify(
    slots: Uint32Array,
    checksums: Uint32Array,
    region: Region,
    targets: Uint32Array,
    { signal, priority }: CallOptions,
  ): Promise<BatchResult> {
    return this.#arena.engine.copyBlocks({
      from: this.#arena.region.bytes,
      fromRowBytes: this.#slots.strideBytes,
      fromSlots: slots,
      to: region.bytes,
      toRowBytes: region.rowBytes,
      toSlots: targets,
      blockBytes: this.context.blockBytes,
      checksums,
      mode: "verify",
      ...(priority === undefined ? {} : { priority }),
      signal,
    });
  }

  #dropDamaged(keys: KeyBatch, rows: Int32Array, slots: Uint32Array, { outcomes }: BatchResult): void {
    const damaged: number[] = [];
    for (let i = 0; i < rows.length; i++) {
      const row = rows[i] as number;
      if (outcomes[i] !== Outcome.CORRUPT || this.#blocks.index.tiers(row) === 0) continue;
      if (this.#facts.slot(row) !== slots[i]) continue; // another block has the row by now
      this.#blocks.drop(row);
      this.#slots.release(slots[i] as number);
      damaged.push(i);
    }
    if (damaged.length === 0) return;
    this.context.logger.error({ blocks: damaged.length }, "blocks in memory were damaged");
    this.announceRemoved(selectKeys(keys, damaged), "corrupt");
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
          this.#verify(
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
    this.#givingUp.add(leaving);
    await leaving.finally(() => this.#givingUp.delete(leaving));
    return true;
  }
}

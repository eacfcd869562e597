import { type AuthorContext, type BlockBatch, OffloadBackend, type RemovalReason, type Usage } from "../backend.js";
import type { AuthorOptions } from "../call.js";
import { KvferryError, toKvferryError } from "../errors.js";
import { type KeyBatch, selectKeys } from "../keys.js";
import type { MetricLabels } from "../layers/metrics.js";
import { StagingPool } from "../layers/staging-pool.js";
import type { BatchResult } from "../outcomes.js";
import { NO_ROW } from "../prefix-index/block-table.js";
import { createMemoryRegion } from "../region.js";
import type { AuthorScanOptions, ScanPage } from "../scan.js";
import { BlockMap } from "./block-map.js";
import type { LeavingBlocks } from "./evictions.js";
import { Fills } from "./fills.js";
import { listTier, scanTiers } from "./listing.js";
import { Loads } from "./loads.js";
import { Lookups } from "./lookups.js";
import type { Move, MoveResult } from "./metrics.js";
import { MISS_REASONS, MissReasons } from "./miss-reasons.js";
import { Mover } from "./mover.js";
import { checkOptions, type TieredStoreOptions } from "./options.js";
import type { StoreParts } from "./parts.js";
import { removeFromAll } from "./removals.js";
import { Stores } from "./stores.js";
import { Tier } from "./tier.js";
import { tieredManifest } from "./tiered-manifest.js";

const STAGING_BYTES_MAX = 64 * 1024 * 1024;
const DRAIN_MS = 5000;
/** Counters go to the sink so often, and at the end. */
const SINK_MS = 1000;

/** A tier as the status shows it. */
export interface TierStatus {
  readonly name: string;
  readonly isUp: boolean;
  /** Whether all of its blocks are known. */
  readonly isExact: boolean;
  /** Blocks loaded from it. */
  readonly hits: number;
  /** Blocks waiting to be copied into it, or on their way. */
  readonly pendingBlocks: number;
  /** Blocks that were to be copied into it, as "promotion done" and so on. */
  readonly moved: Readonly<Record<string, number>>;
}

/** What an open store has. */
interface OpenStore {
  readonly parts: StoreParts;
  readonly loads: Loads;
  readonly stores: Stores;
  readonly lookups: Lookups;
  readonly fills: Fills;
}

/**
 * Several backends as one, from fast to slow. docs/tiers.md has the whole story; in short:
 *
 * - **store**: into every tier with write "through", within the call; STORED as soon as one took it. Tiers with "back" get it later, from a faster tier's copy: the
 *   slots of the call are never read after it. What no "through" tier took goes into the first "back" tier that does, within the call.
 * - **load**: from the fastest tier that has the block, and from the next if that fails. What came from a slower tier is put into the fastest tier
 *   with `promote` within the call, and into those between in the background. One call at a time reads a block from a tier that is not the
 *   first to promote to; others that want it wait, and take it from the faster tier.
 * - **lookup**: HIT if a tier that can be asked has it; PENDING while a store of it is under way and no tier has it; else MISS, with a reason (`missReasons`).
 * - **eviction**: tiers make room by themselves, or are kept within `capacityBytes`; what leaves a tier with `cascade` and is in no slower one goes to the next,
 *   unless that has evicted it and nobody has loaded it since.
 * - **failure**: a tier that fails as a whole is left alone for a second, or while `isDown` says so; the others go on.
 *
 * Copies in the background are bounded and dropped beyond the bound; every drop is counted (TIER_METRICS).
 */
export class TieredStore extends OffloadBackend {
  readonly #options: TieredStoreOptions;
  readonly #tiers: readonly Tier[];
  readonly #stopping: AbortController = new AbortController();
  readonly #moved: readonly Map<string, number>[];
  readonly #told: Map<string, number> = new Map();
  #open: OpenStore | undefined;
  #listing: Promise<unknown> = Promise.resolve();
  /** Of the tiers that nobody else stores into: what there is of each is known afterwards. */
  #listingOwn: Promise<unknown> = Promise.resolve();
  #telling: NodeJS.Timeout | undefined;

  /** @throws KvferryError CONFIG_INVALID with `context.field`. */
  constructor(options: TieredStoreOptions) {
    checkOptions(options);
    const last = options.tiers.length - 1;
    const tiers = options.tiers.map((tier, i) => new Tier(tier, i, i === last));
    super(tieredManifest(tiers));
    this.#options = options;
    this.#tiers = tiers;
    this.#moved = tiers.map(() => new Map());
  }

  /** Why blocks were missed; grows as long as the store is open.
   * @throws KvferryError NOT_OPEN before `open`. */
  missReasons(): MissReasons {
    return this.#store.parts.reasons;
  }

  /** From fast to slow. */
  tierStatus(): readonly TierStatus[] {
    return this.#tiers.map((tier, i) => ({
      name: tier.name,
      isUp: tier.isUp,
      isExact: tier.exact,
      hits: tier.hits,
      pendingBlocks: this.#open?.parts.movers[i]?.pending ?? 0,
      moved: Object.fromEntries(this.#moved[i] as Map<string, number>),
    }));
  }

  /** When all tiers that can be listed have been, and no copy is waiting or under way. */
  async settled(): Promise<void> {
    await this.#listing;
    await Promise.all(this.#store.parts.movers.map((mover) => mover.idle()));
  }

  /** Which tiers are known to have these blocks: a byte a key, bit i for tier i, from fast to slow. Asks no tier, and is no use of a block. Waits until the
   * tiers that nobody else stores into have been listed.
   * @throws KvferryError NOT_OPEN before `open`. */
  async tiersOf(keys: KeyBatch): Promise<Uint8Array> {
    await this.#listingOwn;
    const { map } = this.#store.parts;
    return Uint8Array.from(map.find(keys), (row) => map.tiers(row));
  }

  /**
   * Puts blocks into a tier before anyone asks for them, each from the fastest tier that has it sound. Comes after loads of engines, and takes a quarter of the staging memory
   * at most. The tier makes room for them as for any store: whoever must not evict asks for no more than it has room for.
   *
   * @param tier its name.
   * @returns for each key STORED, PRESENT, DROPPED (the tier takes it not), MISS (no tier has it), CORRUPT or FAILED.
   * @throws KvferryError INVALID_ARGUMENT for a tier that is not there, NOT_OPEN before `open`.
   */
  async fill(
    tier: string,
    keys: KeyBatch,
    { signal }: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<BatchResult> {
    const target = this.#tiers.find(({ name }) => name === tier);
    if (target !== undefined) return this.#store.fills.fill(target, keys, signal);
    const names = this.#tiers.map(({ name }) => name).join(", ");
    throw new KvferryError("INVALID_ARGUMENT", `fill: there is no tier ${tier}; there are ${names}`, {
      operation: "fill",
      context: { field: "tier" },
    });
  }

  protected override async _open(context: AuthorContext): Promise<void> {
    for (const tier of this.#tiers) {
      tier.opened(context.clock, context.logger);
      tier.backend.onRemoved((keys, reason) => this.#onRemoved(tier, keys, reason));
      const next = this.#tiers[tier.number + 1];
      if (tier.cascade && next !== undefined) {
        tier.evictions?.onEvicting((leaving) => this.#onEvicting(tier, next, leaving));
      }
    }
    const parts = this.#makeParts(context);
    this.#open = {
      parts,
      loads: new Loads(parts),
      stores: new Stores(parts),
      lookups: new Lookups(parts),
      fills: new Fills(parts),
    };
    for (const { backend, name } of this.#tiers) {
      try {
        await backend.open(context);
      } catch (thrown) {
        const { code, message, context: facts } = toKvferryError(thrown, "open");
        const details = { operation: "open", context: { ...facts, tier: name }, cause: thrown };
        throw new KvferryError(code, `tier ${name}: ${message}`, details);
      }
    }
    const listings = this.#tiers.map((tier) => listTier(parts, tier));
    this.#listing = Promise.all(listings);
    this.#listingOwn = Promise.all(
      listings.filter((_, i) => !this.#tiers[i]?.backend.manifest.capabilities.sharedAcrossHosts),
    );
    if (this.#options.sink !== undefined) {
      this.#telling = setInterval(() => this.#tellSink(), SINK_MS);
      this.#telling.unref();
    }
  }

  protected override _lookup(keys: KeyBatch, options: AuthorOptions): Promise<Uint8Array> {
    return this.#store.lookups.ask(keys, options);
  }

  protected override _lookupNow(keys: KeyBatch): Uint8Array | undefined {
    return this.#store.lookups.now(keys);
  }

  protected override _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#store.stores.store(batch, options);
  }

  protected override _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#store.loads.load(batch, options);
  }

  protected override _remove(keys: KeyBatch, options: AuthorOptions): Promise<BatchResult> {
    return removeFromAll(this.#store.parts, keys, options);
  }

  protected override async *_scan(options: AuthorScanOptions): AsyncGenerator<ScanPage> {
    await this.#listingOwn;
    const bytesOf = new Map<Tier, number>();
    for (const tier of this.#tiers) {
      if (!tier.backend.manifest.capabilities.usage) continue;
      const { bytes, blocks } = await tier.backend.usage();
      bytesOf.set(tier, blocks === 0 ? 0 : bytes / blocks);
    }
    yield* scanTiers(this.#store.parts, bytesOf, options);
  }

  /** Bytes of all tiers together; each block once. */
  protected override async _usage(): Promise<Usage> {
    await this.#listingOwn;
    const { map } = this.#store.parts;
    const usages = await Promise.all(this.#tiers.map(({ backend }) => backend.usage()));
    const sum = { bytes: 0, blocks: 0, capacityBytes: 0 as number | undefined };
    for (const { bytes, blocks, capacityBytes } of usages) {
      sum.bytes += bytes;
      sum.blocks += blocks;
      sum.capacityBytes =
        sum.capacityBytes === undefined || capacityBytes === undefined ? undefined : sum.capacityBytes + capacityBytes;
    }
    return { ...sum, blocks: sum.blocks - (map.copies - map.blocks) };
  }

  protected override async _close(): Promise<void> {
    clearInterval(this.#telling);
    await this.#drain();
    this.#stopping.abort();
    await this.#listing;
    if (this.#open !== undefined) await Promise.all(this.#open.parts.movers.map((mover) => mover.idle()));
    await this.#open?.fills.idle();
    this.#open?.lookups.close();
    const closed = await Promise.allSettled(this.#tiers.map(({ backend }) => backend.close()));
    if (this.#options.sink !== undefined) this.#tellSink();
    const failed = closed.find(({ status }) => status === "rejected");
    if (failed !== undefined) throw (failed as PromiseRejectedResult).reason;
  }

  get #store(): OpenStore {
    if (this.#open === undefined) throw new KvferryError("NOT_OPEN", "tiered: open() has not been called");
    return this.#open;
  }

  #makeParts(context: AuthorContext): StoreParts {
    const { staging, missReasonEntries } = this.#options;
    let pool: StagingPool | undefined;
    const movers: Mover[] = [];
    const parts: StoreParts = {
      context,
      tiers: this.#tiers,
      movers,
      map: new BlockMap(context.keyBytes),
      reasons: new MissReasons(context.keyBytes, missReasonEntries),
      stopping: this.#stopping.signal,
      staging: () => {
        const rows = Math.max(1, Math.floor((staging?.bytesMax ?? STAGING_BYTES_MAX) / context.blockBytes));
        pool ??= new StagingPool(rows, context.blockBytes, staging?.createRegion ?? createMemoryRegion);
        return pool;
      },
      moved: (tier, move, result, blocks) => this.#countMoved(tier, move, result, blocks),
      lost: (keys) => this.announceRemoved(keys, "evicted"),
    };
    for (const tier of this.#tiers) movers.push(new Mover(tier, parts));
    return parts;
  }

  #countMoved({ number }: Tier, move: Move, result: MoveResult, blocks: number): void {
    const counts = this.#moved[number] as Map<string, number>;
    const name = `${move} ${result}`;
    counts.set(name, (counts.get(name) ?? 0) + blocks);
  }

  /** Forwards what no tier has any more. */
  #onRemoved(tier: Tier, keys: KeyBatch, reason: RemovalReason): void {
    const { map, reasons } = this.#store.parts;
    tier.removals++;
    const rows = map.find(keys);
    const gone: number[] = [];
    for (let i = 0; i < keys.count; i++) {
      const row = rows[i] as number;
      const wasLast = row === NO_ROW || (reason === "evicted" ? map.evict(row, tier.bit) : map.lose(row, tier.bit));
      if (wasLast && !map.isStoring(row)) gone.push(i);
    }
    reasons.noteAll(keys, reason === "corrupt" ? "corrupt" : "evicted");
    if (gone.length > 0) this.announceRemoved(gone.length === keys.count ? keys : selectKeys(keys, gone), reason);
  }

  async #onEvicting(tier: Tier, next: Tier, leaving: LeavingBlocks): Promise<void> {
    const { map, movers } = this.#store.parts;
    if (this.#stopping.signal.aborted) return;
    const rows = map.find(leaving.keys);
    const slower = -1 << (tier.number + 1);
    const only: number[] = [];
    for (let i = 0; i < rows.length; i++) {
      const row = rows[i] as number;
      // what the next tier has evicted itself would come back as if it were new, in the place of something better
      if ((map.tiers(row) & slower) === 0 && (map.evicted(row) & next.bit) === 0) only.push(i);
    }
    if (only.length > 0) await movers[next.number]?.rescue(leaving, only);
  }

  async #drain(): Promise<void> {
    if (this.#open === undefined) return;
    const { drainMs = DRAIN_MS } = this.#options;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, drainMs);
    });
    await Promise.race([Promise.all(this.#open.parts.movers.map((mover) => mover.idle())), late]);
    clearTimeout(timer);
  }

  #tellSink(): void {
    for (const reason of MISS_REASONS) {
      this.#tellCount("kvferry_misses_total", { reason }, this.#open?.parts.reasons.count(reason) ?? 0);
    }
    for (const [i, { name, hits }] of this.#tiers.entries()) {
      this.#tellCount("kvferry_tier_hits_total", { tier: name }, hits);
      for (const [kind, blocks] of this.#moved[i] as Map<string, number>) {
        const [move, result] = kind.split(" ") as [string, string];
        this.#tellCount("kvferry_tier_moved_blocks_total", { tier: name, move, result }, blocks);
      }
    }
  }

  #tellCount(name: string, labels: MetricLabels, count: number): void {
    const id = [name, ...Object.values(labels)].join(" ");
    const told = this.#told.get(id) ?? 0;
    if (count === told) return;
    this.#told.set(id, count);
    try {
      this.#options.sink?.count(name, labels, count - told);
    } catch (err) {
      this.context.logger.debug({ err }, "the metrics sink has thrown");
    }
  }
}

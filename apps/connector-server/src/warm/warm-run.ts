import {
  type BatchResult,
  KvferryError,
  type Logger,
  Outcome,
  packKeys,
  selectKeys,
  storedBlockBytes,
} from "@kvferry/core";
import { Pace } from "../maintenance/pace.js";
import type { NamespaceLoan, NamespacePool } from "../namespaces.js";
import { freeBytesOf } from "../storage/room.js";
import type { NamespaceTier, Storage } from "../storage/storage.js";
import type { StoredNamespace } from "../storage/tier-runtime.js";
import { type Candidate, Hottest } from "./hottest.js";

/** Candidates of a run, at most: some 400 bytes each. What is left out comes in the next run. */
const CANDIDATES_MAX = 2 ** 17;
/** On the way at a time: a quarter of the staging memory of a tiered store. */
const BATCH_BYTES_MAX = 16 * 2 ** 20;
/** With a rate, a batch is what it lets through in so many ms. */
const RATE_BATCH_MS = 250;
/** Batches of which nothing could be read or written, one after the other: the storage is not well. */
const FAILED_BATCHES_MAX = 3;

export interface WarmOptions {
  /** Payload bytes that are put into upper tiers, at most; undefined: as much as has room. A block counts once. */
  readonly bytesMax: number | undefined;
  /** Of them a second, at most. */
  readonly rateBytesMax: number | undefined;
  /** First digits of the namespace's digest; "" for all that are stored. */
  readonly namespace: string;
}

/** How a run stands. done: all that is stored is in the upper tiers, or was tried. full: a tier had no room for some
 * of it. bytes: `bytesMax` are there. */
type WarmState = "listing" | "loading" | "done" | "full" | "bytes" | "stopped" | "failed";

/** Numbers of a run; a block counts once, whatever the tiers. */
export interface WarmCounts {
  namespaces: number;
  /** Were not opened: limits.namespacesMax, or they cannot be opened. */
  skippedNamespaces: number;
  listedBlocks: number;
  /** Colder than so many others that there was no memory to remember them: the next run takes them up. */
  leftOutBlocks: number;
  /** In every upper tier before. */
  presentBlocks: number;
  /** Put into one upper tier at least. */
  loadedBlocks: number;
  loadedBytes: number;
  /** Listed, and not there any more when their turn came. */
  missedBlocks: number;
  /** Damaged, and set aside by their storage. */
  corruptBlocks: number;
  /** Refused by a tier that had told of room. */
  droppedBlocks: number;
  failedBlocks: number;
}

export interface WarmProgress {
  state: WarmState;
  readonly counts: WarmCounts;
  /** Blocks put into each upper tier. */
  readonly tiers: Record<string, number>;
}

export interface WarmParts {
  readonly storage: Storage;
  readonly namespaces: NamespacePool;
  readonly logger: Logger;
}

export function noProgress(): WarmProgress {
  return {
    state: "listing",
    counts: {
      ...{ namespaces: 0, skippedNamespaces: 0, listedBlocks: 0, presentBlocks: 0, loadedBlocks: 0, loadedBytes: 0 },
      ...{ leftOutBlocks: 0, missedBlocks: 0, corruptBlocks: 0, droppedBlocks: 0, failedBlocks: 0 },
    },
    tiers: {},
  };
}

/** A namespace in a run. */
interface Source {
  readonly stored: StoredNamespace;
  /** Whether an earlier run has kept it open. */
  readonly wasKept: boolean;
  loadedBlocks: number;
}

/** Puts the hottest blocks of the slower tiers into the faster ones, as far as there is room: nothing has to go for them. `progress` is kept up to date.
 * @throws KvferryError INVALID_ARGUMENT where there is nothing to warm, with `context.field` for a namespace that is not there. */
export async function warmTiers(
  parts: WarmParts,
  options: WarmOptions,
  signal: AbortSignal,
  progress: WarmProgress,
): Promise<void> {
  const run = new WarmRun(parts, options, signal, progress);
  try {
    progress.state = await run.run();
  } finally {
    await run.close();
  }
}

class WarmRun {
  readonly #parts: WarmParts;
  readonly #options: WarmOptions;
  readonly #signal: AbortSignal;
  readonly #progress: WarmProgress;
  readonly #pace: Pace;
  readonly #sources: Source[] = [];
  /** Bytes left of tiers whose room takes a count of what is there. */
  readonly #freeBytes: Map<number, number> = new Map();
  /** Tiers that let blocks go while the run was under way: what comes is worth no more than those. */
  readonly #full: Set<string> = new Set();
  /** Whether a block was lacking where there was no room for it. */
  #lackedRoom = false;

  constructor(parts: WarmParts, options: WarmOptions, signal: AbortSignal, progress: WarmProgress) {
    [this.#parts, this.#options, this.#signal, this.#progress] = [parts, options, signal, progress];
    this.#pace = new Pace(options.rateBytesMax);
  }

  async run(): Promise<WarmState> {
    if (this.#parts.storage.tiers.length < 2) {
      throw new KvferryError("INVALID_ARGUMENT", "warm: there is one tier, and none above it to be warmed", {
        operation: "warm",
        context: { field: "tiers" },
      });
    }
    const hottest = new Hottest(CANDIDATES_MAX, Date.now());
    for (const stored of await this.#stored()) {
      if (this.#signal.aborted) return "stopped";
      await this.#listNamespace(stored, hottest);
    }
    this.#progress.state = "loading";
    this.#progress.counts.leftOutBlocks = hottest.leftOut;
    return this.#loadAll(hottest);
  }

  /** Namespaces of which nothing was loaded may close again. */
  async close(): Promise<void> {
    for (const { stored, wasKept, loadedBlocks } of this.#sources) {
      if (wasKept || loadedBlocks > 0) continue;
      const loan = await this.#parts.namespaces.borrowOpen(stored.namespace).catch(() => undefined);
      loan?.giveBack(false);
    }
  }

  /** What the slower tiers have, each namespace once. */
  async #stored(): Promise<readonly StoredNamespace[]> {
    const found = new Map<string, StoredNamespace>();
    for (const tier of this.#parts.storage.tiers.slice(1)) {
      for (const stored of await tier.namespaces()) {
        const { digestHex } = stored.namespace;
        if (!digestHex.startsWith(this.#options.namespace.toLowerCase())) continue;
        if (stored.vllmFs !== undefined || !found.has(digestHex)) found.set(digestHex, stored);
      }
    }
    if (found.size > 0 || this.#options.namespace === "") return [...found.values()];
    throw new KvferryError("INVALID_ARGUMENT", `warm: no namespace ${this.#options.namespace} is stored`, {
      operation: "warm",
      context: { field: "namespace" },
    });
  }

  async #listNamespace(stored: StoredNamespace, hottest: Hottest): Promise<void> {
    const { namespaces, logger } = this.#parts;
    const { counts } = this.#progress;
    const source = this.#sources.length;
    let loan: NamespaceLoan | undefined;
    try {
      loan = await namespaces.borrow(stored.namespace, stored);
      if (loan === undefined) counts.skippedNamespaces++;
      else {
        this.#sources.push({ stored, wasKept: loan.wasKept, loadedBlocks: 0 });
        counts.namespaces++;
        for (let number = 1; number < loan.storage.tiers.length; number++)
          await this.#listTier(loan, number, source, hottest);
      }
    } catch (thrown) {
      counts.skippedNamespaces++;
      logger.warn({ namespace: stored.namespace.digestHex, error: String(thrown) }, "warm: could not list a namespace");
    } finally {
      loan?.giveBack(true);
    }
  }

  async #listTier({ storage }: NamespaceLoan, number: number, source: number, hottest: Hottest): Promise<void> {
    const { counts } = this.#progress;
    const { backend } = storage.tiers[number] as NamespaceTier;
    if (!backend.manifest.capabilities.scan) return;
    const upper = (1 << (storage.tiers.length - 1)) - 1;
    for await (const page of backend.scan()) {
      if (this.#signal.aborted) return;
      const masks = await storage.fills.tiersOf(packKeys(page.map(({ key }) => key)));
      for (const [i, entry] of page.entries()) {
        const mask = masks[i] as number;
        if ((mask & upper) !== upper) {
          if (hottest.add(source, entry)) counts.listedBlocks++;
        } else if (mask >> (number + 1) === 0) {
          // not counted where a slower tier will list it, too
          counts.listedBlocks++;
          counts.presentBlocks++;
        }
      }
    }
  }

  async #loadAll(hottest: Hottest): Promise<WarmState> {
    const { counts } = this.#progress;
    let failedBatches = 0;
    for (const batch of this.#batches(hottest)) {
      if (this.#signal.aborted) return "stopped";
      const source = this.#sources[batch[0]?.source as number] as Source;
      const { blockBytes } = source.stored;
      const left = Math.floor(((this.#options.bytesMax ?? Number.POSITIVE_INFINITY) - counts.loadedBytes) / blockBytes);
      if (left <= 0) return "bytes";
      await this.#pace.wait(Math.min(left, batch.length) * blockBytes, this.#signal);
      if (this.#signal.aborted) return "stopped";
      const end = await this.#loadBatch(source, batch.slice(0, left));
      if (end === "full") return end;
      failedBatches = end === "failed" ? failedBatches + 1 : 0;
      if (failedBatches >= FAILED_BATCHES_MAX) return "failed";
    }
    if (this.#signal.aborted) return "stopped";
    return this.#lackedRoom ? "full" : "done";
  }

  /** Blocks of one namespace each. */
  *#batches(hottest: Hottest): Generator<Candidate[]> {
    const rated = ((this.#options.rateBytesMax ?? Number.POSITIVE_INFINITY) * RATE_BATCH_MS) / 1000;
    let batch: Candidate[] = [];
    let blocksMax = 0;
    for (const candidate of hottest.inOrder()) {
      if (batch.length >= blocksMax || batch[0]?.source !== candidate.source) {
        if (batch.length > 0) yield batch;
        batch = [];
        const { blockBytes } = (this.#sources[candidate.source] as Source).stored;
        blocksMax = Math.max(1, Math.floor(Math.min(BATCH_BYTES_MAX, rated) / blockBytes));
      }
      batch.push(candidate);
    }
    if (batch.length > 0) yield batch;
  }

  async #loadBatch(source: Source, batch: readonly Candidate[]): Promise<"loaded" | "full" | "failed"> {
    const loan = await this.#parts.namespaces.borrowOpen(source.stored.namespace);
    if (loan === undefined) {
      this.#progress.counts.missedBlocks += batch.length; // an engine needed its place
      return "loaded";
    }
    const unlisten = loan.storage.tiers.map(({ name, backend }) =>
      backend.onRemoved((_keys, reason) => {
        if (reason === "evicted") this.#full.add(name);
      }),
    );
    try {
      return await this.#fillTiers(loan, source, batch);
    } finally {
      for (const stop of unlisten) stop();
      loan.giveBack(true);
    }
  }

  /** The fastest tier first: those below get their copies from there. */
  async #fillTiers(
    { storage }: NamespaceLoan,
    source: Source,
    batch: readonly Candidate[],
  ): Promise<"loaded" | "full" | "failed"> {
    const { tiers, fills } = storage;
    const keys = packKeys(batch.map(({ key }) => key));
    const best = new Uint8Array(batch.length).fill(UNTRIED);
    let anyRoom = false;
    for (const [number, tier] of tiers.slice(0, -1).entries()) {
      if (this.#signal.aborted) break;
      const masks = await fills.tiersOf(keys);
      const room = await this.#roomOf(number, tier, source);
      if (room > 0) anyRoom = true;
      const all = [...batch.keys()].filter((i) => ((masks[i] as number) & (1 << number)) === 0);
      const lacking = all.slice(0, room);
      if (lacking.length < all.length) this.#lackedRoom = true;
      if (lacking.length === 0) continue;
      const result = await fills.fill(tier.name, selectKeys(keys, lacking), { signal: this.#signal });
      this.#took(number, tier, source, lacking, result, best);
    }
    return this.#count(source, best, anyRoom);
  }

  /** Notes what a tier has taken; of each block, the outcome that says most. */
  #took(
    number: number,
    { name }: NamespaceTier,
    { stored }: Source,
    positions: readonly number[],
    { outcomes }: BatchResult,
    best: Uint8Array,
  ): void {
    let taken = 0;
    for (const [k, i] of positions.entries()) {
      const outcome = outcomes[k] as number;
      if (outcome === Outcome.STORED) taken++;
      if (rankOf(outcome) > rankOf(best[i] as number)) best[i] = outcome;
    }
    this.#progress.tiers[name] = (this.#progress.tiers[name] ?? 0) + taken;
    const free = this.#freeBytes.get(number);
    if (free !== undefined) this.#freeBytes.set(number, free - taken * storedBlockBytes(stored.blockBytes));
  }

  #count(source: Source, best: Uint8Array, anyRoom: boolean): "loaded" | "full" | "failed" {
    const { counts } = this.#progress;
    let failed = 0;
    for (const outcome of best) {
      if (outcome === Outcome.STORED) {
        counts.loadedBlocks++;
        counts.loadedBytes += source.stored.blockBytes;
        source.loadedBlocks++;
      } else if (outcome === Outcome.PRESENT) counts.presentBlocks++;
      else if (outcome === Outcome.MISS) counts.missedBlocks++;
      else if (outcome === Outcome.CORRUPT) counts.corruptBlocks++;
      else if (outcome === Outcome.DROPPED) counts.droppedBlocks++;
      else if (outcome === Outcome.FAILED && !this.#signal.aborted) failed++;
    }
    counts.failedBlocks += failed;
    if (!anyRoom && !this.#signal.aborted) return "full";
    return failed === best.length ? "failed" : "loaded";
  }

  async #roomOf(number: number, tier: NamespaceTier, { stored }: Source): Promise<number> {
    if (this.#full.has(tier.name) || tier.circuit() !== "closed") return 0;
    const known = tier.roomBlocks();
    if (known !== undefined) return known;
    const runtime = this.#parts.storage.tiers[number];
    if (!this.#freeBytes.has(number) && runtime !== undefined) this.#freeBytes.set(number, await freeBytesOf(runtime));
    return Math.floor((this.#freeBytes.get(number) ?? 0) / storedBlockBytes(stored.blockBytes));
  }
}

/** No tier had room for the block, or all had it. */
const UNTRIED = 255;

function rankOf(outcome: number): number {
  const order: readonly number[] = [
    UNTRIED,
    Outcome.MISS,
    Outcome.DROPPED,
    Outcome.FAILED,
    Outcome.CORRUPT,
    Outcome.PRESENT,
    Outcome.STORED,
  ];
  return order.indexOf(outcome);
}

import { setTimeout as sleep } from "node:timers/promises";
import {
  type BatchResult,
  type ErrorCode,
  type KeyBatch,
  KvferryError,
  LookupState,
  Outcome,
  outcomeCode,
  packKeys,
  type ScanEntry,
  type ScanPage,
  slotBytes,
} from "@kvferry/core";
import { createRegion, type MappedRegion } from "@kvferry/native";
import type { LayeredBackend } from "../layers.js";
import { inCopyOrder, type Run } from "./copy-order.js";
import { named } from "./copy-sides.js";
import { Pace } from "./pace.js";

/** Batches on the way side by side, so that one is read while another is written. */
const LANES_MAX = 4;
/** Memory for blocks on the way, at most, but one block always fits. */
const REGION_BYTES_MAX = 128 * 2 ** 20;
const PAGE_BYTES = 4096; // rows that O_DIRECT takes
/** Blocks that are put in order at a time: bounds what a listing takes in memory. */
const WINDOW_BLOCKS_MAX = 2 ** 18;
/** With a rate, a batch is what it lets through in so many ms. */
const RATE_BATCH_MS = 250;
/** How long room is waited for: a shared folder drops stores while it counts what is there, and makes room for the next ones. */
const ROOM_WAIT_MS = 10_000;
const ROOM_POLL_MS = 250;

export interface CopyCounts {
  /** Blocks that FROM has listed. */
  listedBlocks: number;
  /** Were in TO already; not read from FROM unless another copy was faster. */
  skippedBlocks: number;
  copiedBlocks: number;
  /** Payload read from FROM, damaged blocks included. */
  readBytes: number;
  /** Damaged in FROM, which has set them aside. */
  corruptBlocks: number;
  /** Listed, and not there any more when their turn came. */
  missedBlocks: number;
  /** Read, or about to be, and not taken by TO. */
  droppedBlocks: number;
  /** Could not be read or written. */
  failedBlocks: number;
  /** With `verify`: copies that were read back and are the same bytes. */
  verifiedBlocks: number;
  /** TO took no more, and the copy has ended early. */
  full: boolean;
  /** Codes of what failed or was dropped. */
  readonly codes: Partial<Record<ErrorCode, number>>;
}

export interface CopyOptions {
  /** Payload bytes a second, at most. */
  readonly rateBytesMax?: number | undefined;
  /** Blocks on the way at a time, at most. */
  readonly blocksMax: number;
  /** Blocks that TO may get, at most. */
  readonly roomBlocks: number;
  /** Read every copy back and compare. */
  readonly verify: boolean;
  /** An abort ends the copy when what is on the way has arrived. */
  readonly signal?: AbortSignal | undefined;
  /** Called after every batch. */
  onProgress?(counts: Readonly<CopyCounts>): void;
}

export function noCounts(): CopyCounts {
  return {
    ...{ listedBlocks: 0, skippedBlocks: 0, copiedBlocks: 0, readBytes: 0, corruptBlocks: 0, missedBlocks: 0 },
    ...{ droppedBlocks: 0, failedBlocks: 0, verifiedBlocks: 0 },
    full: false,
    codes: {},
  };
}

/** Part of a lane's slots. */
interface Placed {
  readonly keys: Run;
  /** Slot of each key. */
  readonly slots: readonly number[];
}

/**
 * Copies the blocks of a namespace that TO has not; both are open. What TO has is its state: a copy that was killed goes on where it was, without reading again what
 * has arrived. Each block is verified by FROM when it is read and gets a checksum of its own in TO.
 *
 * `counts` are kept up to date, also where this throws. Ends early when the signal is aborted, and when TO is full: `counts` tell.
 * @throws KvferryError UNAVAILABLE for a side that fails again and again, UNSUPPORTED where FROM has no scan, or what a listing or lookup says.
 */
export async function copyBlocks(
  from: LayeredBackend,
  to: LayeredBackend,
  options: CopyOptions,
  counts: CopyCounts,
): Promise<void> {
  const copier = new Copier(from, to, options, counts);
  try {
    await copier.run();
  } finally {
    copier.close();
  }
}

/** Counts what there is to copy, and reads no block. `to` undefined: there is nothing yet. */
export async function countMissing(
  from: LayeredBackend,
  to: LayeredBackend | undefined,
  signal: AbortSignal,
): Promise<{ listedBlocks: number; skippedBlocks: number; missingBlocks: number }> {
  const counts = { listedBlocks: 0, skippedBlocks: 0, missingBlocks: 0 };
  for await (const page of pagesOf(from)) {
    if (signal.aborted) break;
    counts.listedBlocks += page.length;
    const missing = await Promise.all(page.map(async ({ key }) => to === undefined || isMissing(to, key)));
    for (const each of missing) {
      if (each) counts.missingBlocks++;
      else counts.skippedBlocks++;
    }
  }
  return counts;
}

class Copier {
  readonly #from: LayeredBackend;
  readonly #to: LayeredBackend;
  readonly #options: CopyOptions;
  readonly #counts: CopyCounts;
  readonly #region: MappedRegion;
  /** Slots of a lane; with `verify` each lane has as many again, to read copies back into. */
  readonly #laneSlots: number;
  readonly #lanes: number;
  readonly #pace: Pace;
  readonly #stopListening: () => void;
  #roomBlocks: number;
  /** No block is begun any more. */
  #over = false;

  constructor(from: LayeredBackend, to: LayeredBackend, options: CopyOptions, counts: CopyCounts) {
    [this.#from, this.#to, this.#options, this.#counts] = [from, to, options, counts];
    const { blockBytes } = from.backend.context;
    const rowBytes = Math.ceil(blockBytes / PAGE_BYTES) * PAGE_BYTES;
    const copies = options.verify ? 2 : 1;
    const blocks = Math.max(1, Math.min(options.blocksMax, Math.floor(REGION_BYTES_MAX / (rowBytes * copies))));
    this.#lanes = Math.min(LANES_MAX, blocks);
    const rated = Math.floor(((options.rateBytesMax ?? Number.POSITIVE_INFINITY) * RATE_BATCH_MS) / 1000 / blockBytes);
    this.#laneSlots = Math.max(1, Math.min(Math.floor(blocks / this.#lanes), rated));
    this.#region = createRegion({ rows: this.#lanes * this.#laneSlots * copies, rowBytes });
    this.#pace = new Pace(options.rateBytesMax);
    this.#roomBlocks = options.roomBlocks;
    // what TO gives up for what comes was worth as much: from then on nothing is won
    this.#stopListening = to.backend.onRemoved((_keys, reason) => {
      if (reason === "evicted") this.#full("NO_SPACE", 0);
    });
  }

  async run(): Promise<void> {
    let window: ScanEntry[] = [];
    for await (const page of pagesOf(this.#from)) {
      if (this.#ended) return;
      for (const entry of page) window.push(entry);
      this.#counts.listedBlocks += page.length;
      if (window.length < WINDOW_BLOCKS_MAX) continue;
      await this.#copyWindow(window);
      window = [];
    }
    await this.#copyWindow(window);
  }

  /** No I/O may be under way. */
  close(): void {
    this.#stopListening();
    this.#region.close();
  }

  get #ended(): boolean {
    return this.#over || this.#options.signal?.aborted === true;
  }

  async #copyWindow(entries: readonly ScanEntry[]): Promise<void> {
    const runs = inCopyOrder(entries, this.#laneSlots);
    let next = 0;
    const take = (): Run[] => {
      const batch: Run[] = [];
      for (let slots = this.#laneSlots; next < runs.length; next++) {
        const run = runs[next] as Run;
        slots -= run.length;
        if (slots < 0) break;
        batch.push(run);
      }
      return batch;
    };
    const lane = async (first: number): Promise<void> => {
      try {
        while (!this.#ended) {
          const batch = take();
          if (batch.length === 0) return;
          await this.#copyBatch(batch, first);
          this.#options.onProgress?.(this.#counts);
          this.#checkCircuits();
        }
      } catch (thrown) {
        this.#over = true; // for the others too
        throw thrown;
      }
    };
    const lanes = Array.from({ length: this.#lanes }, (_, i) => lane(i * this.#laneSlots));
    const ended = await Promise.allSettled(lanes); // all of them: the region is let go next
    for (const each of ended) if (each.status === "rejected") throw each.reason;
  }

  /** One batch in the slots from `first` on. */
  async #copyBatch(batch: readonly Run[], first: number): Promise<void> {
    const { blockBytes } = this.#from.backend.context;
    const missing = (await Promise.all(batch.map((run) => missingOf(this.#to, run)))).flat();
    const asked = batch.reduce((sum, run) => sum + run.length, 0);
    this.#counts.skippedBlocks += asked - missing.reduce((sum, run) => sum + run.length, 0);
    const wanted = this.#withRoom(missing);
    const count = wanted.reduce((sum, run) => sum + run.length, 0);
    if (count === 0) return;
    const { signal } = this.#options;
    await this.#pace.wait(count * blockBytes, signal);
    if (signal?.aborted) return;
    const loaded = await this.#load(wanted, first);
    await Promise.all(loaded.map((run) => this.#store(run)));
  }

  /** What TO has room for by what is known; the rest is counted. */
  #withRoom(runs: readonly Run[]): readonly Run[] {
    const fitting: Run[] = [];
    for (const run of runs) {
      const blocks = Math.min(run.length, this.#roomBlocks);
      this.#roomBlocks -= blocks;
      if (blocks > 0) fitting.push(run.slice(0, blocks));
      if (blocks < run.length) this.#full("NO_SPACE", run.length - blocks);
    }
    return fitting;
  }

  async #load(runs: readonly Run[], first: number): Promise<Placed[]> {
    const keys = packKeys(runs.flat());
    const slots = Uint32Array.from({ length: keys.count }, (_, i) => first + i);
    const result = await this.#from.backend.load({ keys, region: this.#region, slots });
    this.#countLoads(result);
    const loaded: Placed[] = [];
    let at = 0;
    for (const run of runs) {
      const base = at;
      at += run.length;
      const positions = piecesOf(run.length, (i) => result.outcomes[base + i] === Outcome.LOADED);
      for (const piece of positions) {
        loaded.push({ keys: piece.map((i) => run[i] as Uint8Array), slots: piece.map((i) => first + base + i) });
      }
    }
    return loaded;
  }

  #countLoads(result: BatchResult): void {
    const { blockBytes } = this.#from.backend.context;
    for (const [i, outcome] of result.outcomes.entries()) {
      if (outcome === Outcome.LOADED || outcome === Outcome.CORRUPT) this.#counts.readBytes += blockBytes;
      if (outcome === Outcome.CORRUPT) this.#counts.corruptBlocks++;
      else if (outcome === Outcome.MISS) this.#counts.missedBlocks++;
      else if (outcome !== Outcome.LOADED) this.#failed(outcomeCode(result, i));
    }
  }

  /** Stores a run, waiting a while for room. */
  async #store(run: Placed): Promise<void> {
    const giveUpAtMs = performance.now() + ROOM_WAIT_MS;
    let left = run;
    for (;;) {
      const keys = packKeys(left.keys);
      const result = await this.#to.backend.store({ keys, region: this.#region, slots: Uint32Array.from(left.slots) });
      const { stored, dropped } = this.#countStores(result);
      if (this.#options.verify && stored.length > 0) await this.#readBack(pick(left, stored), keys.stride);
      if (dropped.length === 0) return;
      left = pick(left, dropped);
      const code = outcomeCode(result, dropped[0] as number) ?? "NO_SPACE";
      if (code === "UNAVAILABLE") {
        for (const _ of dropped) this.#failed(code); // the breaker is open, which ends the copy
        return;
      }
      if (code !== "NO_SPACE" || this.#ended || performance.now() > giveUpAtMs) {
        this.#full(code, dropped.length);
        return;
      }
      await sleep(ROOM_POLL_MS);
    }
  }

  /** Positions of what was stored, and of what was refused for want of room, which is not counted yet. */
  #countStores(result: BatchResult): { stored: number[]; dropped: number[] } {
    const stored: number[] = [];
    const dropped: number[] = [];
    for (const [i, outcome] of result.outcomes.entries()) {
      const code = outcomeCode(result, i);
      if (outcome === Outcome.STORED) stored.push(i);
      else if (outcome === Outcome.PRESENT) this.#counts.skippedBlocks++;
      else if (outcome === Outcome.DROPPED || code === "NO_SPACE") dropped.push(i);
      else this.#failed(code);
    }
    this.#counts.copiedBlocks += stored.length;
    return { stored, dropped };
  }

  async #readBack({ keys, slots }: Placed, stride: number): Promise<void> {
    const { blockBytes } = this.#to.backend.context;
    const back = slots.map((slot) => slot + this.#lanes * this.#laneSlots);
    const batch = { keys: packKeys(keys, stride), region: this.#region, slots: Uint32Array.from(back) };
    const result = await this.#to.backend.load(batch);
    for (const [i, outcome] of result.outcomes.entries()) {
      const copy = slotBytes(this.#region, back[i] as number, blockBytes);
      const original = slotBytes(this.#region, slots[i] as number, blockBytes);
      if (outcome === Outcome.LOADED && Buffer.compare(copy, original) === 0) this.#counts.verifiedBlocks++;
      else this.#failed(outcome === Outcome.LOADED ? "CORRUPT" : (outcomeCode(result, i) ?? "CORRUPT"));
    }
  }

  #failed(code: ErrorCode = "INTERNAL"): void {
    this.#counts.failedBlocks++;
    this.#counts.codes[code] = (this.#counts.codes[code] ?? 0) + 1;
  }

  /** TO takes no more. */
  #full(code: ErrorCode, blocks: number): void {
    this.#over = true;
    this.#counts.full = true;
    this.#counts.droppedBlocks += blocks;
    if (blocks > 0) this.#counts.codes[code] = (this.#counts.codes[code] ?? 0) + blocks;
  }

  /** A side that fails again and again is not asked for every block of a long list. */
  #checkCircuits(): void {
    for (const [name, { circuit }] of [["FROM", this.#from] as const, ["TO", this.#to] as const]) {
      if (circuit() === "closed") continue;
      const codes = Object.keys(this.#counts.codes).join(", ");
      throw new KvferryError(
        "UNAVAILABLE",
        `${name} fails again and again${codes === "" ? "" : ` (${codes})`}: what was copied stays; run the same command again when it is well`,
        { operation: "copy" },
      );
    }
  }
}

async function* pagesOf({ backend }: LayeredBackend): AsyncGenerator<ScanPage> {
  const pages = backend.scan();
  for (;;) {
    const { done, value } = await named("FROM", () => pages.next());
    if (done === true) return;
    yield value;
  }
}

/** The parts of a run that TO has not. Asked for run by run: storages take the keys of a lookup for a chain. */
async function missingOf({ backend }: LayeredBackend, run: Run): Promise<Run[]> {
  const keys: KeyBatch = packKeys(run);
  const states = backend.lookupNow(keys) ?? (await named("TO", () => backend.lookup(keys)));
  return piecesOf(run.length, (i) => states[i] !== LookupState.HIT).map((piece) =>
    piece.map((i) => run[i] as Uint8Array),
  );
}

async function isMissing(to: LayeredBackend, key: Uint8Array): Promise<boolean> {
  return (await missingOf(to, [key])).length > 0;
}

/** Positions 0 to `count` - 1 that are wanted, in pieces without gaps. */
function piecesOf(count: number, wanted: (i: number) => boolean): number[][] {
  const pieces: number[][] = [];
  for (let i = 0; i < count; i++) {
    if (!wanted(i)) continue;
    if (i > 0 && wanted(i - 1)) pieces.at(-1)?.push(i);
    else pieces.push([i]);
  }
  return pieces;
}

function pick({ keys, slots }: Placed, positions: readonly number[]): Placed {
  return { keys: positions.map((i) => keys[i] as Uint8Array), slots: positions.map((i) => slots[i] as number) };
}

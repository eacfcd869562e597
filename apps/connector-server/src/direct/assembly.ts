import {
  type BatchResult,
  type ErrorCode,
  type KeyBatch,
  type KvferryError,
  Outcome,
  outcomeCode,
  selectKeys,
  setOutcome,
  toKvferryError,
  uniformResult,
} from "@kvferry/core";
import type { BlockResult, Device } from "@kvferry/native";
import type { DirectCounts, DropReason } from "./counts.js";
import { type Pages, selectPages } from "./pages.js";
import type { GatherRows } from "./staging.js";

export interface AssemblyOptions {
  readonly keys: KeyBatch;
  readonly parts: number;
  readonly partBytes: number;
  readonly rows: GatherRows;
  readonly counts: DirectCounts;
  /** One byte a key, not 0 for what a tier is known to have. */
  known(keys: KeyBatch): Promise<Uint8Array>;
  /** Into the tiers, from rows of the staging memory. */
  store(keys: KeyBatch, slots: Uint32Array): Promise<BatchResult>;
  /** Called once, when every chunk has its outcome. */
  settled(result: BatchResult): void;
}

const NO_ROW = -1;

/**
 * A batch of chunks that are put together from the parts of all workers. What becomes of a chunk is decided once for all of them, in order: PRESENT where a tier is known to have it,
 * a row of the staging memory, or DROPPED where none was free in time. When all parts of a chunk are in its row, it is stored.
 */
export class Assembly {
  readonly keys: KeyBatch;
  readonly #options: AssemblyOptions;
  readonly #result: BatchResult;
  readonly #rows: Int32Array;
  /** 1 for a chunk that has its outcome. */
  readonly #isSettled: Uint8Array;
  /** Parts that are in the chunk's row. */
  readonly #arrived: Uint16Array;
  /** What uses the chunk's row now: copies of parts, and the store of the whole. */
  readonly #users: Uint16Array;
  /** Parts that have come, in whatever way. */
  readonly #came: Set<number> = new Set();
  readonly #ending: AbortController = new AbortController();
  /** Chunks from the first on of which it is decided what becomes of them. */
  #decided = 0;
  #unsettled: number;
  #waiting: (() => void)[] = [];

  constructor(options: AssemblyOptions) {
    const { count, bytes } = options.keys;
    this.keys = { ...options.keys, bytes: bytes.slice() }; // the message's may be much more memory
    this.#options = options;
    this.#result = uniformResult(count, Outcome.FAILED);
    this.#rows = new Int32Array(count).fill(NO_ROW);
    this.#isSettled = new Uint8Array(count);
    this.#arrived = new Uint16Array(count);
    this.#users = new Uint16Array(count);
    this.#unsettled = count;
  }

  /** Whether every chunk has its outcome. */
  get isSettled(): boolean {
    return this.#unsettled === 0;
  }

  /** Whether all workers have been here. */
  get hasAllParts(): boolean {
    return this.#came.size === this.#options.parts;
  }

  hasPart(part: number): boolean {
    return this.#came.has(part);
  }

  /** Decides what becomes of the chunks; to be called once. */
  async decide(): Promise<void> {
    const { rows, parts, partBytes } = this.#options;
    const { count } = this.keys;
    const known = await this.#known();
    while (this.#decided < count) {
      if (known[this.#decided] !== 0) {
        this.#settle(this.#decided, Outcome.PRESENT, undefined);
        this.#passed(1);
        continue;
      }
      const taken = await rows.pool.take(count - this.#decided, this.#ending.signal);
      if (taken === undefined) return; // `end` has settled the others
      let used = 0;
      for (let i = this.#decided; i < count && used < taken.length; i++) {
        if (known[i] !== 0) this.#settle(i, Outcome.PRESENT, undefined);
        else {
          this.#rows[i] = taken[used++] as number;
          rows.clearTail(this.#rows[i] as number, parts * partBytes);
        }
        this.#decided = i + 1;
      }
      if (used < taken.length) rows.pool.give(taken.subarray(used));
      this.#passed(0);
    }
  }

  /** Copies one part of all chunks. STORED: it has been copied. What the failure of another part spoils is DROPPED here.
   * @throws KvferryError INVALID_ARGUMENT for pages that the device does not have. */
  async gather(part: number, device: Device, pages: Pages, signal: AbortSignal): Promise<BatchResult> {
    this.#came.add(part);
    const { count } = this.keys;
    const result = uniformResult(count, Outcome.FAILED, "ABORTED");
    const copies: Promise<void>[] = [];
    const cutShort = (): void => this.end("ABORTED"); // this part will never be whole
    signal.addEventListener("abort", cutShort, { once: true });
    if (signal.aborted) cutShort();
    for (let at = 0; at < count; ) {
      await this.#decidedBeyond(at);
      const open: number[] = [];
      for (const end = this.#decided; at < end; at++) {
        if (this.#isSettled[at] === 0) open.push(at);
        else this.#tell(at, result);
      }
      if (open.length > 0) copies.push(this.#copy(part, open, device, pages, signal, result));
    }
    const ended = await Promise.allSettled(copies);
    signal.removeEventListener("abort", cutShort);
    for (const each of ended) if (each.status === "rejected") throw each.reason;
    return result;
  }

  /** No more parts come: what is not whole by now will never be. */
  end(why: "DEADLINE" | "ABORTED"): void {
    if (this.#ending.signal.aborted) return;
    this.#ending.abort();
    for (let i = 0; i < this.keys.count; i++) {
      if (i >= this.#decided) this.#settle(i, Outcome.DROPPED, why, "staging");
      else if (this.#arrived[i] !== this.#options.parts) this.#settle(i, Outcome.FAILED, why, "part_missing");
    }
    this.#decided = this.keys.count;
    this.#passed(0);
  }

  async #known(): Promise<Uint8Array> {
    try {
      return await this.#options.known(this.keys);
    } catch {
      return new Uint8Array(this.keys.count); // then the store finds out
    }
  }

  #passed(chunks: number): void {
    this.#decided += chunks;
    for (const wake of this.#waiting.splice(0)) wake();
  }

  async #decidedBeyond(at: number): Promise<void> {
    while (this.#decided <= at) {
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
      });
    }
  }

  /** What a part hears that comes after the outcome. */
  #tell(i: number, result: BatchResult): void {
    if (this.#result.outcomes[i] === Outcome.PRESENT) setOutcome(result, i, Outcome.PRESENT);
    else setOutcome(result, i, Outcome.DROPPED, outcomeCode(this.#result, i));
  }

  async #copy(
    part: number,
    positions: readonly number[],
    device: Device,
    pages: Pages,
    signal: AbortSignal,
    result: BatchResult,
  ): Promise<void> {
    const { rows, partBytes } = this.#options;
    const { region } = rows;
    const hostOffsets = Float64Array.from(
      positions,
      (i) => (this.#rows[i] as number) * region.rowBytes + part * partBytes,
    );
    for (const i of positions) (this.#users[i] as number)++;
    if (device.partBytes < partBytes) {
      // a stage of a pipeline with fewer layers
      for (const at of hostOffsets) region.bytes.fill(0, at + device.partBytes, at + partBytes);
    }
    let copied: BlockResult;
    let failure: KvferryError | undefined;
    try {
      copied = await device.gather({
        host: region.bytes,
        hostOffsets,
        ...selectPages(pages, this.keys.count, positions),
        signal,
      });
    } catch (thrown) {
      failure = toKvferryError(thrown, "gather");
      copied = uniformResult(positions.length, Outcome.FAILED, failure.code);
    }
    this.#takePart(positions, copied, result);
    if (failure !== undefined) throw failure;
  }

  #takePart(positions: readonly number[], copied: BlockResult, result: BatchResult): void {
    const { partBytes, counts, parts } = this.#options;
    const whole: number[] = [];
    for (const [k, i] of positions.entries()) {
      result.outcomes[i] = copied.outcomes[k] as number;
      result.codes[i] = copied.codes[k] as number;
      if (copied.outcomes[k] !== Outcome.STORED) {
        this.#settle(i, Outcome.FAILED, outcomeCode(copied, k), "part_failed");
        this.#leave(i);
        continue;
      }
      counts.gatheredParts++;
      counts.gatheredBytes += partBytes;
      this.#arrived[i] = (this.#arrived[i] as number) + 1;
      if (this.#arrived[i] === parts && this.#isSettled[i] === 0) whole.push(i);
      else this.#leave(i);
    }
    if (whole.length > 0) void this.#store(whole); // which has the use of their rows now
  }

  async #store(positions: readonly number[]): Promise<void> {
    const { counts, store } = this.#options;
    let result: BatchResult;
    try {
      const slots = Uint32Array.from(positions, (i) => this.#rows[i] as number);
      result = await store(selectKeys(this.keys, positions), slots);
    } catch (thrown) {
      result = uniformResult(positions.length, Outcome.FAILED, toKvferryError(thrown, "store").code);
    }
    for (const [k, i] of positions.entries()) {
      const outcome = result.outcomes[k] as Outcome;
      if (outcome === Outcome.STORED) counts.storedBlocks++;
      const taken = outcome === Outcome.STORED || outcome === Outcome.PRESENT;
      this.#settle(i, outcome, outcomeCode(result, k), taken ? undefined : "tiers");
      this.#leave(i);
    }
  }

  /** Gives a chunk its outcome, unless it has one. */
  #settle(i: number, outcome: Outcome, code: ErrorCode | undefined, dropped?: DropReason): void {
    if (this.#isSettled[i] === 1) return;
    const { counts, settled } = this.#options;
    this.#isSettled[i] = 1;
    setOutcome(this.#result, i, outcome, code);
    if (outcome === Outcome.PRESENT) counts.presentBlocks++;
    if (dropped !== undefined) counts.drop(dropped);
    this.#giveRow(i);
    if (--this.#unsettled === 0) settled(this.#result);
  }

  #leave(i: number): void {
    this.#users[i] = (this.#users[i] as number) - 1;
    this.#giveRow(i);
  }

  #giveRow(i: number): void {
    const row = this.#rows[i] as number;
    if (row === NO_ROW || this.#users[i] !== 0 || this.#isSettled[i] === 0) return;
    this.#rows[i] = NO_ROW;
    this.#options.rows.pool.give(Uint32Array.of(row));
  }
}

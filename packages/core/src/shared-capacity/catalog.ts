import type { BlockUse, EvictionPolicy, PolicyFactory } from "../eviction/policy.js";
import { type KeyBatch, packKeys, selectKeys } from "../keys.js";
import { Outcome } from "../outcomes.js";
import { NO_ROW } from "../prefix-index/block-table.js";
import type { PrefixIndex } from "../prefix-index/prefix-index.js";
import { type Amount, filesThatFit, minus, NOTHING, plus } from "./amount.js";
import { type LogRecord, RecordKind } from "./log.js";

/** One folder below the root that holds blocks, whoever stores there. */
export interface BlockFolder {
  /** Its name in logs: its path below the root. */
  readonly name: string;
  /** Whose quota it counts for. */
  readonly tenant: string;
  readonly keyBytes: number;
  /** Of most of its files. */
  readonly fileBytes: number;
  /** The folders in it that hold files. */
  leaves(): AsyncIterable<BlockLeaf>;
  /** Temporary files of writers that are no members, and the quarantine. */
  besides(isMember: (writer: string) => boolean): Promise<Amount>;
  /** One byte a key: 1 where a file is there. */
  exists(keys: KeyBatch): Promise<Uint8Array>;
  /** Outcomes REMOVED, MISS, FAILED. */
  remove(keys: KeyBatch): Promise<Uint8Array>;
  close(): Promise<void>;
}

export interface BlockLeaf {
  list(): Promise<FolderBlocks>;
}

export interface FolderBlocks {
  readonly keys: KeyBatch;
  readonly bytes: Float64Array;
  readonly modifiedAtMs: Float64Array;
  /** Files that are no blocks. */
  readonly others: Amount;
}

export interface BlockRoot {
  /** Every folder of blocks that there is now. One that was found before is the same object. */
  folders(): Promise<readonly BlockFolder[]>;
}

/** Sizes are kept in pages: an index has 32 bits for them. */
const PAGE_BYTES = 4096;
const TIER = 1;

const CAPACITY_BLOCKS_MAX = 2 ** 30;
const PAGES_MAX = 2 ** 32 - 1;
/** The index rounds times down by less. */
const USE_TICK_MS = 125;
/** Keys between two chances for others to run. */
const SLICE_KEYS = 512;
/** Blocks that are being evicted. */
export interface Victims {
  readonly entry: CatalogFolder;
  readonly keys: KeyBatch;
  readonly pages: Uint32Array;
}

export interface Evicted {
  readonly removed: Amount;
  readonly missing: Amount;
}

type Found = Pick<FolderBlocks, "keys" | "bytes" | "modifiedAtMs">;

/** What the leader knows of one folder of blocks: which are there, how they were used, and what they take. */
export class CatalogFolder {
  readonly source: BlockFolder;
  readonly #index: PrefixIndex;
  readonly #policy: EvictionPolicy;
  /** By row: the last byte of the number of the recount that has seen it last, and what it takes; 0: not counted. */
  #seen: Uint8Array = new Uint8Array(0);
  #pages: Uint32Array = new Uint32Array(0);
  #counted: Amount = NOTHING;
  /** By row: whether the policy knows it. */
  #ranked: Uint8Array = new Uint8Array(0);
  /** By the recount under way, not in the index yet. */
  #found: Found[] = [];
  /** Rows that the index knew from before, and the recount under way has found. */
  #recovered: number[] = [];
  readonly #nowMs: () => number;
  readonly #use: BlockUse = { nowMs: 0, position: 0, requestBlocks: 1, foundBlocks: 0 };
  #rows: Int32Array = new Int32Array(64);

  /** @param index may know blocks from before: they count once a recount or a server has found them.
   * @param nowMs wall clock: no block was used later than now, whatever a file or a log says. */
  constructor(source: BlockFolder, index: PrefixIndex, policy: PolicyFactory, capacity: Amount, nowMs: () => number) {
    this.source = source;
    this.#nowMs = nowMs;
    this.#index = index;
    const capacityBlocks = Math.min(CAPACITY_BLOCKS_MAX, filesThatFit(capacity, source.fileBytes));
    this.#policy = policy({ table: this.#index, capacityBlocks: Math.max(1, capacityBlocks) });
  }

  get counted(): Amount {
    return this.#counted;
  }

  get size(): number {
    return this.#index.size;
  }

  get memoryBytes(): number {
    return this.#index.memoryBytes + this.#policy.memoryBytes + this.#seen.byteLength + this.#pages.byteLength;
  }

  /** Takes in what a server tells. `recount`: number of the last one that has begun. */
  apply(record: LogRecord, recount: number): void {
    const { kind, keys } = record;
    if (keys.stride !== this.source.keyBytes) return;
    if (kind === RecordKind.STORED) this.#insert(keys, pagesOf(record.fileBytes), record.atMs, recount);
    else if (kind === RecordKind.USED) this.#used(record);
    else if (kind === RecordKind.OBSERVED) this.#index.observe(keys, this.#find(keys));
  }

  /** Takes from a server's old log how blocks were used and follow one another; whether they are there, only a recount tells. */
  recall({ kind, keys, atMs: toldMs }: LogRecord): void {
    if (keys.stride !== this.source.keyBytes) return;
    const atMs = Math.min(toldMs, this.#nowMs());
    const rows = this.#find(keys).slice(0, keys.count);
    if (kind === RecordKind.STORED) this.#index.insert(keys, { tier: TIER, bytes: 1, nowMs: atMs }, rows);
    else if (kind === RecordKind.OBSERVED || kind === RecordKind.USED) this.#index.observe(keys, rows);
    if (kind !== RecordKind.USED) return;
    // what the index knows already does not count twice
    this.#index.touch(
      rows.filter((row) => row !== NO_ROW && this.#index.lastUseMs(row) < atMs - USE_TICK_MS),
      atMs,
    );
  }

  beginRecount(): void {
    this.#found = [];
    this.#recovered = [];
  }

  /** Takes in one listing of the recount. */
  list(blocks: FolderBlocks, recount: number): void {
    const { keys } = blocks;
    const rows = this.#find(keys);
    const unknown: number[] = [];
    for (let i = 0; i < keys.count; i++) {
      const row = rows[i] as number;
      if (row === NO_ROW) unknown.push(i);
      else {
        this.#note(row, pagesOf(blocks.bytes[i] as number), recount);
        if (this.#ranked[row] === 0) this.#recovered.push(row);
      }
    }
    if (unknown.length === 0) return;
    this.#found.push({
      keys: selectKeys(keys, unknown),
      bytes: Float64Array.from(unknown, (i) => blocks.bytes[i] as number),
      modifiedAtMs: Float64Array.from(unknown, (i) => blocks.modifiedAtMs[i] as number),
    });
  }

  /** Puts what the recount has found into the index, oldest first, a slice for each `yield`. */
  *takeFound(recount: number): Generator<void> {
    const found = this.#found;
    this.#found = [];
    let count = 0;
    for (const row of this.#recoveredInOrder()) {
      this.#rank(row, this.#useOf(this.#index.lastUseMs(row), 0, 1, 0));
      if (++count % SLICE_KEYS === 0) yield;
    }
    for (const [part, i] of oldestFirst(found.map(({ modifiedAtMs }) => modifiedAtMs))) {
      const { keys, bytes, modifiedAtMs } = found[part] as Found;
      const key = selectKeys(keys, [i]); // one at a time: that they were listed together says nothing of chains
      this.#insert(key, pagesOf(bytes[i] as number), modifiedAtMs[i] as number, recount);
      if (++count % SLICE_KEYS === 0) yield;
    }
  }

  /** Drops the blocks that the recount has not seen, a slice for each `yield`. */
  *dropUnseen(recount: number): Generator<void> {
    let count = 0;
    for (const row of this.#index.rows()) {
      if (this.#seen[row] !== (recount & 0xff)) this.#drop(row);
      if (++count % (8 * SLICE_KEYS) === 0) yield;
    }
  }

  /** Drops the keys at which `there` is 0. What they took. */
  forget(keys: KeyBatch, there: Uint8Array): Amount {
    const rows = this.#find(keys).slice(0, keys.count);
    let dropped = NOTHING;
    for (let i = 0; i < keys.count; i++) {
      const row = rows[i] as number;
      if (there[i] === 0 && row !== NO_ROW && this.#pages[row] !== 0) dropped = plus(dropped, this.#drop(row));
    }
    return dropped;
  }

  /** When the block that would be evicted next was used last; infinite if there is none. */
  victimUsedAtMs(nowMs: number): number {
    const row = this.#policy.victim(nowMs);
    return row === NO_ROW ? Number.POSITIVE_INFINITY : this.#index.lastUseMs(row);
  }

  /** Takes victims out of the index until they make up `wanted`; they count until `evicted`. */
  takeVictims(wanted: Amount, countMax: number, nowMs: number): Victims {
    const keys: Uint8Array[] = [];
    const pages: number[] = [];
    let bytes = 0;
    while (keys.length < countMax && (bytes < wanted.bytes || keys.length < wanted.files)) {
      const row = this.#policy.victim(nowMs);
      if (row === NO_ROW) break;
      keys.push(this.#index.key(row));
      pages.push(this.#pages[row] as number);
      bytes += (this.#pages[row] as number) * PAGE_BYTES;
      this.#remove(row);
    }
    return { entry: this, keys: packKeys(keys, this.source.keyBytes), pages: Uint32Array.from(pages) };
  }

  /** Says what became of victims. What was removed, and what was not there. */
  evicted({ keys, pages }: Victims, outcomes: Uint8Array, nowMs: number, recount: number): Evicted {
    let [removed, missing] = [NOTHING, NOTHING];
    for (let i = 0; i < keys.count; i++) {
      const amount = { bytes: (pages[i] as number) * PAGE_BYTES, files: 1 };
      this.#counted = minus(this.#counted, amount);
      if (outcomes[i] === Outcome.REMOVED) removed = plus(removed, amount);
      else if (outcomes[i] === Outcome.MISS) missing = plus(missing, amount);
      else this.#insert(selectKeys(keys, [i]), pages[i] as number, nowMs, recount);
    }
    return { removed, missing };
  }

  /** Adds keys in the order of their request. */
  #insert(keys: KeyBatch, pages: number, toldMs: number, recount: number): void {
    const atMs = Math.min(toldMs, this.#nowMs());
    if (this.#rows.length < keys.count) this.#rows = new Int32Array(keys.count);
    const rows = this.#rows;
    this.#index.insert(keys, { tier: TIER, bytes: pages, nowMs: atMs }, rows);
    for (let i = keys.count - 1; i >= 0; i--) {
      const row = rows[i] as number;
      this.#note(row, pages, recount);
      this.#rank(row, this.#useOf(atMs, i, keys.count, 0));
    }
  }

  #used({ keys, atMs: toldMs }: LogRecord): void {
    const atMs = Math.min(toldMs, this.#nowMs());
    const rows = this.#find(keys).slice(0, keys.count);
    this.#index.observe(keys, rows);
    this.#index.touch(rows, atMs);
    for (let i = keys.count - 1; i >= 0; i--) {
      const row = rows[i] as number;
      if (row !== NO_ROW && this.#ranked[row] === 1)
        this.#policy.used(row, this.#useOf(atMs, i, keys.count, keys.count));
    }
  }

  #useOf(nowMs: number, position: number, requestBlocks: number, foundBlocks: number): BlockUse {
    return Object.assign(this.#use, { nowMs, position, requestBlocks, foundBlocks });
  }

  #find(keys: KeyBatch): Int32Array {
    if (this.#rows.length < keys.count) this.#rows = new Int32Array(keys.count);
    this.#index.findMany(keys, this.#rows);
    return this.#rows;
  }

  /** Tells the policy of a block that it does not know. */
  #rank(row: number, use: BlockUse): void {
    if (this.#ranked[row] === 1 || this.#pages[row] === 0) return;
    this.#ranked[row] = 1;
    this.#policy.inserted(row, use);
  }

  /** Longest unused first; of those used together the later rows, which mostly come after the others in their chain. */
  #recoveredInOrder(): number[] {
    const rows = Int32Array.from(this.#recovered).sort().reverse();
    this.#recovered = [];
    const times = Float64Array.from(rows, (row) => this.#index.lastUseMs(row));
    return [...oldestFirst([times])].map(([, i]) => rows[i] as number);
  }

  /** The block is there and takes so much. */
  #note(row: number, pages: number, recount: number): void {
    if (row >= this.#seen.length) {
      const length = Math.max(1024, 2 ** Math.ceil(Math.log2(this.#index.rowLimit + 1)));
      this.#seen = grown(this.#seen, new Uint8Array(length));
      this.#pages = grown(this.#pages, new Uint32Array(length));
      this.#ranked = grown(this.#ranked, new Uint8Array(length));
    }
    this.#seen[row] = recount & 0xff;
    const before = this.#pages[row] as number;
    this.#pages[row] = pages;
    this.#counted = plus(this.#counted, { bytes: (pages - before) * PAGE_BYTES, files: before === 0 ? 1 : 0 });
  }

  #drop(row: number): Amount {
    const pages = this.#pages[row] ?? 0; // 0: known from before, and not found
    const amount = pages === 0 ? NOTHING : { bytes: pages * PAGE_BYTES, files: 1 };
    this.#counted = minus(this.#counted, amount);
    this.#remove(row);
    return amount;
  }

  #remove(row: number): void {
    if (this.#ranked[row] === 1) this.#policy.removed(row);
    this.#index.delete(row);
    this.#pages[row] = 0;
    this.#ranked[row] = 0;
  }
}

function pagesOf(bytes: number): number {
  return Math.min(PAGES_MAX, Math.max(1, Math.ceil(bytes / PAGE_BYTES)));
}

function grown<T extends Uint8Array | Uint32Array>(from: T, to: T): T {
  to.set(from);
  return to;
}

/** [list, index] of all times, in order of time. A time and a place are one number, for the fast sort of numbers: of very many, very far apart, those
 * that are some milliseconds apart may change places. */
function* oldestFirst(lists: readonly Float64Array[]): Generator<[list: number, index: number]> {
  const starts: number[] = [];
  let count = 0;
  let [first, last] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const times of lists) {
    starts.push(count);
    count += times.length;
    for (const time of times) {
      first = Math.min(first, time);
      last = Math.max(last, time);
    }
  }
  const places = 2 ** Math.ceil(Math.log2(count + 1));
  const unitMs = Math.max(1, (last - first) / (2 ** 52 / places));
  const order = new Float64Array(count);
  let place = 0;
  for (const times of lists) {
    for (const time of times) order[place] = Math.floor((time - first) / unitMs) * places + place++;
  }
  order.sort();
  for (const packed of order) {
    const at = packed % places;
    const list = lastAtMost(starts, at);
    yield [list, at - (starts[list] as number)];
  }
}

/** The last position in ascending numbers whose number is at most `value`. */
function lastAtMost(numbers: readonly number[], value: number): number {
  let [low, high] = [0, numbers.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if ((numbers[middle] as number) <= value) low = middle;
    else high = middle - 1;
  }
  return low;
}

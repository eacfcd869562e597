import {
  type EvictingListeners,
  type KeyBatch,
  LookupState,
  NO_ROW,
  PrefixIndex,
  type RemovalReason,
} from "@kvferry/core";
import { type SegmentNamespace, segmentOf } from "@kvferry/native";

/** What a row stands for. PENDING: a block that is being stored; nothing can be loaded yet. */
export const RowState = { ABSENT: 0, STORED: 1, PENDING: 2 } as const;

/** A backend that serves the namespace now. */
export interface ShelfUser {
  /** Who copies blocks before they are evicted. */
  readonly evicting: EvictingListeners;
  removed(keys: KeyBatch, reason: RemovalReason): void;
}

/** The store that a row waits for: settled when the row is PENDING no more. */
export interface Flight {
  readonly number: number;
  readonly landed: Promise<void>;
}

const ROWS_FIRST = 1024;
const TIER = 1;
/** Uses since a block was written are counted to this. */
const USES_MAX = 15;
/** Beside the count: a block behind it in its chain was used, which is a use of this one unless it was counted itself. */
const USED_BEHIND = 0x80;
/** How far up a chain the use of a block is told. */
const ANCESTORS_MAX = 4096;

/** The blocks of one namespace on a drive: where each lies, and what is needed to decide about it. Columns by row of the prefix index. */
export class Shelf {
  readonly id: number;
  readonly namespace: SegmentNamespace;
  readonly index: PrefixIndex;
  readonly users: Set<ShelfUser> = new Set();
  /** Blocks that can be loaded. */
  blocks = 0;
  /** Uses of all stored blocks. */
  #usesOfAll = 0;
  #state: Uint8Array = new Uint8Array(ROWS_FIRST);
  /** Uses since the block was written (the last time). */
  #uses: Uint8Array = new Uint8Array(ROWS_FIRST);
  /** STORED: place in units of 4,096 bytes. */
  #offset4k: Uint32Array = new Uint32Array(ROWS_FIRST);
  /** STORED: its checksum; PENDING: the number of the flight. */
  #checksum: Uint32Array = new Uint32Array(ROWS_FIRST);
  #storedAtS: Uint32Array = new Uint32Array(ROWS_FIRST);

  constructor(id: number, namespace: SegmentNamespace, expectedBlocks: number) {
    this.id = id;
    this.namespace = { ...namespace, namespaceDigest: namespace.namespaceDigest.slice() };
    this.index = new PrefixIndex({ keyBytes: namespace.keyBytes, expectedBlocks });
    this.#reserve(expectedBlocks);
  }

  /** Bytes that a block takes on the drive, without its share of a header. */
  get paddedBytes(): number {
    return Math.ceil(this.namespace.blockBytes / 4096) * 4096;
  }

  get memoryBytes(): number {
    return this.index.memoryBytes + this.#state.length * 14;
  }

  state(row: number): number {
    return this.#state[row] ?? RowState.ABSENT;
  }

  uses(row: number): number {
    const uses = this.#uses[row] as number;
    return uses === USED_BEHIND ? 1 : uses & ~USED_BEHIND;
  }

  /** Whether a block is used more than most are: where nearly all are used alike, copying some would only cost writes. */
  isUsedMore(row: number): boolean {
    return this.uses(row) > Math.round(this.#usesOfAll / Math.max(1, this.blocks));
  }

  offset4k(row: number): number {
    return this.#offset4k[row] as number;
  }

  checksum(row: number): number {
    return this.#checksum[row] as number;
  }

  storedAtMs(row: number): number {
    return (this.#storedAtS[row] as number) * 1000;
  }

  /** Whether a block that was written at `offset4k` for this row is still the one that counts. */
  isAt(row: number, offset4k: number): boolean {
    return this.#state[row] === RowState.STORED && this.#offset4k[row] === offset4k;
  }

  /** Whether the row's block is stored, and lies in a segment. */
  isIn(row: number, segment: number, segmentBytes: number): boolean {
    return this.#state[row] === RowState.STORED && segmentOf(this.#offset4k[row] as number, segmentBytes) === segment;
  }

  /** One LookupState a key. The order of the keys tells how their blocks follow one another. */
  lookup(keys: KeyBatch): Uint8Array {
    const states = new Uint8Array(keys.count);
    const rows = new Int32Array(keys.count);
    if (this.index.findMany(keys, rows) === 0) return states;
    for (let i = 0; i < keys.count; i++) {
      const row = rows[i] as number;
      if (row === NO_ROW) continue;
      states[i] = this.#state[row] === RowState.STORED ? LookupState.HIT : LookupState.PENDING;
    }
    this.index.observe(keys, rows);
    return states;
  }

  /** The row of each key, NO_ROW where there is none. */
  find(keys: KeyBatch): Int32Array {
    const rows = new Int32Array(keys.count);
    this.index.findMany(keys, rows);
    return rows;
  }

  /** Makes rows for new blocks, in prefix order and PENDING; what came after `parent` in its request. */
  addPending(keys: KeyBatch, parent: number, flight: Flight, nowMs: number): Int32Array {
    const rows = new Int32Array(keys.count);
    this.index.insert(keys, { tier: TIER, bytes: this.paddedBytes, nowMs, parent }, rows);
    this.#reserve(this.index.rowLimit);
    for (const row of rows) {
      this.#state[row] = RowState.PENDING;
      this.#checksum[row] = flight.number;
    }
    return rows;
  }

  /** A PENDING row's block is there. */
  land(row: number, offset4k: number, checksum: number, storedAtMs: number): void {
    this.#state[row] = RowState.STORED;
    this.#setUses(row, 0);
    this.#offset4k[row] = offset4k;
    this.#checksum[row] = checksum;
    this.#storedAtS[row] = Math.floor(storedAtMs / 1000);
    this.blocks++;
  }

  /** A copy of a stored block counts from now on; its checksum is the same. */
  move(row: number, offset4k: number): void {
    this.#offset4k[row] = offset4k;
    this.#setUses(row, 0);
  }

  /** Takes a row away, whatever it stands for. */
  drop(row: number): void {
    if (this.#state[row] === RowState.STORED) this.blocks--;
    this.#setUses(row, 0);
    this.#state[row] = RowState.ABSENT;
    this.index.delete(row);
  }

  /** Blocks found on the drive, in the order in which they were written: a later one takes the place of an earlier one, whose offset is
   * given to `replaced`. */
  recover(
    keys: KeyBatch,
    found: { readonly offsets4k: Uint32Array; readonly checksums: Uint32Array; readonly first: number },
    storedAtMs: number,
    rows: Int32Array,
    replaced: (offset4k: number) => void,
  ): void {
    this.index.insert(keys, { tier: TIER, bytes: this.paddedBytes, nowMs: storedAtMs }, rows);
    this.#reserve(this.index.rowLimit);
    for (let i = 0; i < keys.count; i++) {
      const row = rows[i] as number;
      if (this.#state[row] === RowState.STORED) {
        replaced(this.#offset4k[row] as number);
        this.blocks--;
      }
      this.land(
        row,
        found.offsets4k[found.first + i] as number,
        found.checksums[found.first + i] as number,
        storedAtMs,
      );
    }
  }

  /** Blocks were loaded at once (NO_ROW: this one was not): they have been used, and so have those before them in their chains, which a faster tier may
   * have served. */
  use(rows: Int32Array): void {
    for (const row of rows) {
      if (row === NO_ROW) continue;
      if (this.uses(row) < USES_MAX) this.#setUses(row, (this.#uses[row] as number) + 1);
      let ancestor = this.index.parent(row);
      for (let steps = 0; ancestor !== NO_ROW && this.#uses[ancestor] === 0 && steps < ANCESTORS_MAX; steps++) {
        this.#setUses(ancestor, USED_BEHIND);
        ancestor = this.index.parent(ancestor);
      }
    }
  }

  #setUses(row: number, uses: number): void {
    this.#usesOfAll -= this.uses(row);
    this.#uses[row] = uses;
    this.#usesOfAll += this.uses(row);
  }

  /** Whether anybody wants to hear of blocks before they are evicted. */
  get hasListeners(): boolean {
    for (const { evicting } of this.users) if (evicting.size > 0) return true;
    return false;
  }

  announce(keys: KeyBatch, reason: RemovalReason): void {
    for (const user of this.users) user.removed(keys, reason);
  }

  #reserve(rows: number): void {
    const { length } = this.#state;
    if (rows <= length) return;
    const wanted = Math.max(rows, length * 2);
    this.#state = resized(this.#state, new Uint8Array(wanted));
    this.#uses = resized(this.#uses, new Uint8Array(wanted));
    this.#offset4k = resized(this.#offset4k, new Uint32Array(wanted));
    this.#checksum = resized(this.#checksum, new Uint32Array(wanted));
    this.#storedAtS = resized(this.#storedAtS, new Uint32Array(wanted));
  }
}

function resized<T extends Uint8Array | Uint32Array>(from: T, to: T): T {
  to.set(from);
  return to;
}

import { KvferryError, NO_ROW } from "@kvferry/core";

const PAGE_BYTES = 4096;
const LINE_BYTES = 64;

/** What is known of an extent that a namespace has. */
interface Extent {
  readonly first: number;
  readonly count: number;
  /** Slots that stores are filling, and reads and holds of slots: while there are any, the extent stays. */
  busy: number;
  /** The last store into it or load from it. */
  usedAtMs: number;
}

/**
 * The slots of one namespace in an arena. A slot is a place for a block at a multiple of `strideBytes` from the arena's beginning, wholly within one extent, so
 * that the data plane reaches all of them as rows of one memory. A slot is free, being filled by a store, or holds the block of a row of the ledger; one that
 * is being read becomes free only when the last reader has left.
 */
export class Slots {
  readonly strideBytes: number;
  readonly #extentBytes: number;
  readonly #blockBytes: number;
  readonly #extents: (Extent | undefined)[] = [];
  #free: number[] = [];
  /** The row whose block lies in a slot, plus one; 0 for none. */
  readonly #rows: Int32Array;
  readonly #readers: Int32Array;
  /** How often each held slot is held; a hold is a reader, too. */
  readonly #holds: Map<number, number> = new Map();
  /** 1 for a slot that becomes free when its readers have left. */
  readonly #leaving: Uint8Array;

  constructor(blockBytes: number, extentBytes: number, capacityBytes: number) {
    const unit = blockBytes < PAGE_BYTES ? LINE_BYTES : PAGE_BYTES;
    this.strideBytes = Math.ceil(blockBytes / unit) * unit;
    this.#extentBytes = extentBytes;
    this.#blockBytes = blockBytes;
    const slots = Math.ceil(capacityBytes / this.strideBytes);
    this.#rows = new Int32Array(slots);
    this.#readers = new Int32Array(slots);
    this.#leaving = new Uint8Array(slots);
  }

  /** Numbers of the extents of the namespace. */
  get extents(): readonly number[] {
    return [...this.#extents.keys()].filter((number) => this.#extents[number] !== undefined);
  }

  get freeSlots(): number {
    return this.#free.length;
  }

  /** Slots that any extent has, at least. */
  get extentSlotsMin(): number {
    const { strideBytes } = this;
    if (this.#extentBytes % strideBytes === 0) return this.#extentBytes / strideBytes;
    return Math.floor((this.#extentBytes - this.#blockBytes) / strideBytes);
  }

  /** Adds an extent; how many slots it has. */
  add(number: number, nowMs: number): number {
    const first = Math.ceil((number * this.#extentBytes) / this.strideBytes);
    const last = Math.floor(((number + 1) * this.#extentBytes - this.#blockBytes) / this.strideBytes);
    const count = Math.max(0, last - first + 1);
    this.#extents[number] = { first, count, busy: 0, usedAtMs: nowMs };
    for (let slot = last; slot >= first; slot--) this.#free.push(slot);
    return count;
  }

  /** Free slots for a store to fill, as many of `count` as there are. */
  take(count: number): number[] {
    const taken = this.#free.splice(Math.max(0, this.#free.length - count)).reverse();
    for (const slot of taken) this.#extentOf(slot).busy++;
    return taken;
  }

  /** The slots of blocks that have gone, for a store to fill: those that nobody reads. The others become free later. */
  reuse(slots: readonly number[]): number[] {
    return slots.filter((slot) => {
      this.#rows[slot] = 0;
      if (this.#readers[slot] !== 0) {
        this.#leaving[slot] = 1;
        return false;
      }
      this.#extentOf(slot).busy++;
      return true;
    });
  }

  /** A store has filled the slot with the block of a row. */
  fill(slot: number, row: number, nowMs: number): void {
    const extent = this.#extentOf(slot);
    extent.busy--;
    extent.usedAtMs = nowMs;
    this.#rows[slot] = row + 1;
  }

  /** A store has no use for the slot. */
  putBack(slot: number): void {
    this.#extentOf(slot).busy--;
    this.#free.push(slot);
  }

  /** The block in the slot has gone. */
  release(slot: number): void {
    this.#rows[slot] = 0;
    if (this.#readers[slot] === 0) this.#free.push(slot);
    else this.#leaving[slot] = 1;
  }

  beginReading(slots: Uint32Array, nowMs: number): void {
    for (const slot of slots) {
      (this.#readers[slot] as number)++;
      const extent = this.#extentOf(slot);
      extent.busy++;
      extent.usedAtMs = nowMs;
    }
  }

  endReading(slots: Iterable<number>): void {
    for (const slot of slots) {
      this.#extentOf(slot).busy--;
      if (--(this.#readers[slot] as number) > 0 || this.#leaving[slot] === 0) continue;
      this.#leaving[slot] = 0;
      this.#free.push(slot);
    }
  }

  /** The row whose block lies in the slot; NO_ROW if it has gone. */
  rowOf(slot: number): number {
    const row = (this.#rows[slot] as number) - 1;
    return row < 0 ? NO_ROW : row;
  }

  /** How often the slot is held. */
  holdsOf(slot: number): number {
    return this.#holds.get(slot) ?? 0;
  }

  /** Makes a reading of the slot a hold of it, which ends with `endHolding`. */
  keepHolding(slot: number): void {
    this.#holds.set(slot, this.holdsOf(slot) + 1);
  }

  /** The row whose block was held, if it is still there; else NO_ROW.
   * @throws KvferryError INVALID_ARGUMENT for a slot that is not held. */
  endHolding(slot: number): number {
    const holds = this.holdsOf(slot);
    if (holds === 0) throw new KvferryError("INVALID_ARGUMENT", "host-memory: no such block is held");
    if (holds === 1) this.#holds.delete(slot);
    else this.#holds.set(slot, holds - 1);
    const row = this.rowOf(slot);
    this.endReading([slot]);
    return row;
  }

  /** Whether slots of the extent are being filled, read or held. */
  isBusy(extent: number): boolean {
    return (this.#extents[extent]?.busy ?? 0) > 0;
  }

  /** The extent that was used longest ago of those in which no slot is being filled or read. */
  coldest(): { readonly extent: number; readonly usedAtMs: number } | undefined {
    let coldest: { extent: number; usedAtMs: number } | undefined;
    for (const [extent, each] of this.#extents.entries()) {
      if (each === undefined || each.busy > 0) continue;
      if (each.usedAtMs < (coldest?.usedAtMs ?? Number.POSITIVE_INFINITY))
        coldest = { extent, usedAtMs: each.usedAtMs };
    }
    return coldest;
  }

  /** Takes an extent away; the rows whose blocks lie in it and their slots, or undefined if it is busy or another's. */
  giveUp(number: number): { readonly rows: readonly number[]; readonly slots: readonly number[] } | undefined {
    const extent = this.#extents[number];
    if (extent === undefined || extent.busy > 0) return undefined;
    const { first, count } = extent;
    const rows: number[] = [];
    const slots: number[] = [];
    for (let slot = first; slot < first + count; slot++) {
      const row = (this.#rows[slot] as number) - 1;
      if (row < 0) continue;
      rows.push(row);
      slots.push(slot);
      this.#rows[slot] = 0;
    }
    this.#extents[number] = undefined;
    this.#free = this.#free.filter((slot) => slot < first || slot >= first + count);
    return { rows, slots };
  }

  extentOf(slot: number): number {
    return Math.floor((slot * this.strideBytes) / this.#extentBytes);
  }

  #extentOf(slot: number): Extent {
    return this.#extents[this.extentOf(slot)] as Extent;
  }
}

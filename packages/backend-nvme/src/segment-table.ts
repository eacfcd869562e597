/** What a segment is at: FREE → OPEN (takes records) → SEALING → SEALED → EVICTING → FREE. */
export const SegmentState = { FREE: 0, OPEN: 1, SEALING: 2, SEALED: 3, EVICTING: 4 } as const;
export type SegmentState = (typeof SegmentState)[keyof typeof SegmentState];

/** Called for a block that was written into a segment: it is there as long as row `row` of shelf `shelf` says that it lies at `offset4k`. */
export type EntryVisitor = (shelf: number, row: number, offset4k: number) => void;

const ENTRIES_FIRST = 64;

/** Entries of one segment, packed: 12 bytes each. */
class EntryList {
  count = 0;
  #shelves: Uint32Array = new Uint32Array(ENTRIES_FIRST);
  #rows: Uint32Array = new Uint32Array(ENTRIES_FIRST);
  #offsets: Uint32Array = new Uint32Array(ENTRIES_FIRST);

  get memoryBytes(): number {
    return this.#rows.byteLength * 3;
  }

  add(shelf: number, row: number, offset4k: number): void {
    if (this.count === this.#rows.length) {
      this.#shelves = grown(this.#shelves);
      this.#rows = grown(this.#rows);
      this.#offsets = grown(this.#offsets);
    }
    this.#shelves[this.count] = shelf;
    this.#rows[this.count] = row;
    this.#offsets[this.count++] = offset4k;
  }

  forEach(visit: EntryVisitor): void {
    for (let i = 0; i < this.count; i++) {
      visit(this.#shelves[i] as number, this.#rows[i] as number, this.#offsets[i] as number);
    }
  }
}

/** The facts of every segment of a drive, by its number. */
export class SegmentTable {
  readonly segments: number;
  readonly state: Uint8Array;
  /** Of the present life. */
  readonly epoch: Float64Array;
  readonly sequence: Float64Array;
  /** Where the next record may begin. */
  readonly usedBytes: Float64Array;
  /** Room of records that have no place yet. */
  readonly heldBytes: Float64Array;
  /** What has been written or is being written in this life, for the size of the summary. */
  readonly records: Uint32Array;
  readonly blocks: Uint32Array;
  readonly keyBytes: Float64Array;
  /** Blocks that can be loaded from it. */
  readonly liveBlocks: Uint32Array;
  /** 1: it says which keys were removed, which must be known as long as older segments may hold them. */
  readonly hasTombstones: Uint8Array;
  readonly #entries: (EntryList | undefined)[];
  readonly #free: number[] = [];

  constructor(segments: number) {
    this.segments = segments;
    this.state = new Uint8Array(segments);
    this.epoch = new Float64Array(segments);
    this.sequence = new Float64Array(segments);
    this.usedBytes = new Float64Array(segments);
    this.heldBytes = new Float64Array(segments);
    this.records = new Uint32Array(segments);
    this.blocks = new Uint32Array(segments);
    this.keyBytes = new Float64Array(segments);
    this.liveBlocks = new Uint32Array(segments);
    this.hasTombstones = new Uint8Array(segments);
    this.#entries = new Array<EntryList | undefined>(segments);
    for (let segment = segments - 1; segment >= 0; segment--) this.#free.push(segment); // the first ones are taken first
  }

  get freeCount(): number {
    return this.#free.length;
  }

  /** A free segment, which is free no more; undefined where there is none. */
  takeFree(): number | undefined {
    return this.#free.pop();
  }

  /** At recovery: these hold something. */
  markUsed(segments: Iterable<number>): void {
    const used = new Set(segments);
    const free = this.#free.filter((segment) => !used.has(segment));
    this.#free.length = 0;
    for (const segment of free) this.#free.push(segment);
  }

  /** Its life is over; it is taken again after all others that are free. */
  release(segment: number): void {
    this.state[segment] = SegmentState.FREE;
    this.#entries[segment] = undefined;
    this.liveBlocks[segment] = 0;
    this.hasTombstones[segment] = 0;
    this.#free.unshift(segment);
  }

  begin(
    segment: number,
    life: { readonly epoch: number; readonly sequence: number; readonly usedBytes: number },
  ): void {
    this.state[segment] = SegmentState.OPEN;
    this.epoch[segment] = life.epoch;
    this.sequence[segment] = life.sequence;
    this.usedBytes[segment] = life.usedBytes;
    this.heldBytes[segment] = 0;
    this.records[segment] = 0;
    this.blocks[segment] = 0;
    this.keyBytes[segment] = 0;
    this.#entries[segment] = new EntryList();
  }

  /** Notes a block that can be loaded from now on. */
  addEntry(segment: number, shelf: number, row: number, offset4k: number): void {
    this.liveBlocks[segment] = (this.liveBlocks[segment] as number) + 1;
    this.#entries[segment]?.add(shelf, row, offset4k);
  }

  /** A block of it cannot be loaded any more: removed, or moved to another segment. */
  dropEntry(segment: number): void {
    this.liveBlocks[segment] = (this.liveBlocks[segment] as number) - 1;
  }

  /** Visits all blocks that were written into it, in the order of writing, those that have gone since too. */
  forEachEntry(segment: number, visit: EntryVisitor): void {
    this.#entries[segment]?.forEach(visit);
  }

  /** The sealed segment to give up next: one without any block, else the oldest; undefined where none is sealed. One with tombstones
   * goes only when no older one is left that could hold what they say was removed. */
  victim(): number | undefined {
    let oldest: number | undefined;
    let empty: number | undefined;
    let oldestSequence = Number.POSITIVE_INFINITY; // of all that hold records, sealed or not
    for (let segment = 0; segment < this.segments; segment++) {
      const state = this.state[segment];
      if (state === SegmentState.FREE) continue;
      const sequence = this.sequence[segment] as number;
      if (sequence < oldestSequence) oldestSequence = sequence;
      if (state !== SegmentState.SEALED) continue;
      if (oldest === undefined || sequence < (this.sequence[oldest] as number)) oldest = segment;
      if (this.liveBlocks[segment] === 0 && this.hasTombstones[segment] === 0) empty ??= segment;
    }
    if (empty !== undefined) return empty;
    if (oldest === undefined || this.hasTombstones[oldest] === 0) return oldest;
    return this.sequence[oldest] === oldestSequence ? oldest : undefined;
  }

  get memoryBytes(): number {
    let bytes = this.segments * 62;
    for (const list of this.#entries) bytes += list?.memoryBytes ?? 0;
    return bytes;
  }
}

function grown(array: Uint32Array): Uint32Array {
  const larger = new Uint32Array(array.length * 2);
  larger.set(array);
  return larger;
}

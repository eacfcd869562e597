import type { Logger } from "@kvferry/core";
import {
  RECORD_BLOCKS_MAX,
  recordBytes,
  SEGMENT_HEADER_BYTES,
  type SegmentDrive,
  type SegmentNamespace,
  summaryBytes,
} from "@kvferry/native";
import { unlessAborted } from "./abort.js";
import { SegmentState, type SegmentTable } from "./segment-table.js";
import type { SequenceSource } from "./sequence.js";
import { UseCounts } from "./use-counts.js";

/** A key's bytes and its checksum are in a record's header and in the summary. */
const ENTRY_COPIES = 2;
const CHECKSUM_BYTES = 4;
const PAGE_BYTES = 4096;

/** Room for one record in a segment, until `release`. */
export interface Room {
  readonly segment: number;
  readonly epoch: number;
  readonly sequence: number;
  /** Blocks that it has room for. */
  readonly blocks: number;
  /** Held back for it; 0 once it has its place. */
  heldBytes: number;
}

export interface Wish {
  /** The record's time, where it was settled before; default: now. */
  readonly sequence?: number;
  /** Room that must be left in the segment. */
  readonly leaveBytes?: number;
}

export interface SegmentLogHooks {
  /** A segment has just begun its life and is empty; called before anyone else gets room in it. */
  opened(): void;
  /** No segment is free: called again and again while a store waits. */
  starved(): void;
  /** The log itself writes so many bytes: the header or the summary of a segment. */
  writing(bytes: number): void;
}

/** Hands out the room of a drive: one segment is open at a time, records are put one behind the other into it, and several may be
 * written at once. A full one is sealed in the background. */
export class SegmentLog {
  readonly #drive: SegmentDrive;
  readonly #table: SegmentTable;
  readonly #sequences: SequenceSource;
  readonly #hooks: SegmentLogHooks;
  readonly #logger: Logger;
  readonly #appending: UseCounts;
  readonly #sealing: Set<Promise<void>> = new Set();
  #open: number | undefined;
  #opening: Promise<void> | undefined;
  #wake: (() => void)[] = [];
  #closing = false;

  constructor(
    drive: SegmentDrive,
    table: SegmentTable,
    sequences: SequenceSource,
    hooks: SegmentLogHooks,
    logger: Logger,
  ) {
    this.#drive = drive;
    this.#table = table;
    this.#sequences = sequences;
    this.#hooks = hooks;
    this.#logger = logger;
    this.#appending = new UseCounts(table.segments);
  }

  get openSegment(): number | undefined {
    return this.#open;
  }

  /** At recovery: goes on in the last segment that was not sealed, and seals the others. */
  resume(unsealed: readonly number[]): void {
    const { sequence } = this.#table;
    const newest = [...unsealed].sort((a, b) => (sequence[b] as number) - (sequence[a] as number));
    this.#open = newest.shift();
    for (const segment of newest) this.#retire(segment);
  }

  /** Room in the open segment for as many of the blocks as fit; undefined where not even one does. */
  tryReserve(namespace: SegmentNamespace, blocks: number, { sequence, leaveBytes = 0 }: Wish = {}): Room | undefined {
    const segment = this.#open;
    if (segment === undefined) return undefined;
    const count = this.#fitting(segment, namespace, blocks, leaveBytes);
    if (count === 0) return undefined;
    const { heldBytes, records, blocks: written, keyBytes, epoch } = this.#table;
    const bytes = recordBytes(count, namespace.blockBytes, namespace.keyBytes);
    heldBytes[segment] = (heldBytes[segment] as number) + bytes;
    records[segment] = (records[segment] as number) + 1;
    written[segment] = (written[segment] as number) + count;
    keyBytes[segment] = (keyBytes[segment] as number) + count * namespace.keyBytes;
    this.#appending.begin(segment);
    const room = { segment, epoch: epoch[segment] as number, blocks: count, heldBytes: bytes };
    return { ...room, sequence: sequence ?? this.#sequences.next() };
  }

  /** Room for one block or more as soon as there is some; undefined once the signal is aborted, or the log closes.
   * @throws what the drive says to the begin of a segment's life. */
  async reserve(
    namespace: SegmentNamespace,
    blocks: number,
    signal: AbortSignal | undefined,
    wish?: Wish,
  ): Promise<Room | undefined> {
    for (;;) {
      if (signal?.aborted || this.#closing) return undefined;
      const room = this.tryReserve(namespace, blocks, wish);
      if (room !== undefined) return room;
      this.#opening ??= this.#openNext().finally(() => {
        this.#opening = undefined;
      });
      await unlessAborted(this.#opening, signal);
    }
  }

  /** Where a record of so many bytes begins, of which there may be fewer than were held back. The drive takes records by rising offset: it must
   * be appended in this very turn. */
  place(room: Room, bytes: number): number {
    this.#giveBack(room);
    const { usedBytes } = this.#table;
    const offset = usedBytes[room.segment] as number;
    usedBytes[room.segment] = offset + bytes;
    return offset;
  }

  /** Every room that was reserved ends here, when what was written into it is, or if nothing was. */
  release(room: Room): void {
    this.#giveBack(room);
    this.#appending.end(room.segment);
  }

  /** A segment has become free, or could be given up now. */
  changed(): void {
    const waiting = this.#wake;
    this.#wake = [];
    for (const resolve of waiting) resolve();
  }

  /** Lets nobody wait any more, and settles when nothing is being sealed. */
  async close(): Promise<void> {
    this.#closing = true;
    this.changed();
    await this.#opening?.catch(() => {}); // those who waited for it have heard
    while (this.#sealing.size > 0) await Promise.all(this.#sealing);
  }

  #giveBack(room: Room): void {
    const { heldBytes } = this.#table;
    heldBytes[room.segment] = (heldBytes[room.segment] as number) - room.heldBytes;
    room.heldBytes = 0;
  }

  /** How many of so many blocks fit into a segment, with the summary behind them. */
  #fitting(segment: number, { blockBytes, keyBytes }: SegmentNamespace, wanted: number, leaveBytes: number): number {
    const table = this.#table;
    const used = (table.usedBytes[segment] as number) + (table.heldBytes[segment] as number) + leaveBytes;
    const fits = (count: number): boolean => {
      const summary = summaryBytes(
        (table.records[segment] as number) + 1,
        (table.blocks[segment] as number) + count,
        (table.keyBytes[segment] as number) + count * keyBytes,
      );
      return used + recordBytes(count, blockBytes, keyBytes) + summary <= this.#drive.segmentBytes;
    };
    const most = Math.min(wanted, RECORD_BLOCKS_MAX);
    if (fits(most)) return most;
    const payloadBytes = Math.ceil(blockBytes / PAGE_BYTES) * PAGE_BYTES;
    const blockCost = payloadBytes + ENTRY_COPIES * (CHECKSUM_BYTES + keyBytes);
    let count = Math.max(0, Math.floor((this.#drive.segmentBytes - used - 4 * PAGE_BYTES) / blockCost)); // may be too few
    count = Math.min(count, most);
    while (count > 0 && !fits(count)) count--;
    while (count < most && fits(count + 1)) count++;
    return count;
  }

  async #openNext(): Promise<void> {
    const full = this.#open;
    if (full !== undefined) {
      this.#open = undefined;
      this.#retire(full);
    }
    let segment = this.#table.takeFree();
    while (segment === undefined) {
      if (this.#closing) return;
      const changed = new Promise<void>((resolve) => this.#wake.push(resolve));
      this.#hooks.starved();
      await changed;
      segment = this.#table.takeFree();
    }
    const sequence = this.#sequences.next();
    this.#hooks.writing(SEGMENT_HEADER_BYTES);
    try {
      await this.#drive.begin({ segment, epoch: sequence, sequence });
    } catch (thrown) {
      this.#table.release(segment);
      throw thrown;
    }
    this.#table.begin(segment, { epoch: sequence, sequence, usedBytes: SEGMENT_HEADER_BYTES });
    this.#open = segment;
    this.#hooks.opened();
  }

  /** Seals a segment as soon as its last record is written. One that cannot be sealed is given up all the same when its turn has come:
   * the next recovery walks its records. */
  #retire(segment: number): void {
    const table = this.#table;
    table.state[segment] = SegmentState.SEALING;
    const seal = async (): Promise<void> => {
      await this.#appending.idle(segment);
      const { records, blocks, keyBytes } = table;
      const counts = [records, blocks, keyBytes].map((each) => each[segment] as number) as [number, number, number];
      this.#hooks.writing(summaryBytes(...counts));
      const life = { segment, epoch: table.epoch[segment] as number, sequence: table.sequence[segment] as number };
      try {
        await this.#drive.seal(life);
      } catch (err) {
        this.#logger.warn({ err, segment }, "a segment could not be sealed");
      }
      table.state[segment] = SegmentState.SEALED;
      this.changed(); // it can be given up for whoever waits
    };
    const sealing = seal().finally(() => this.#sealing.delete(sealing));
    this.#sealing.add(sealing);
  }
}

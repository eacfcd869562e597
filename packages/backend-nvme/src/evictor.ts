import { type Clock, type Logger, Outcome } from "@kvferry/core";
import {
  createRegion,
  driveOffset4k,
  type MappedRegion,
  payloadOffset,
  recordBytes,
  SEGMENT_HEADER_BYTES,
  type SegmentDrive,
  segmentOf,
} from "@kvferry/native";
import { REINSERTED_SHARE_MAX } from "./config.js";
import type { Leave } from "./leave.js";
import { liveRows } from "./live-rows.js";
import { chooseKept } from "./reinsertion.js";
import type { Room, SegmentLog } from "./segment-log.js";
import { SegmentState, type SegmentTable } from "./segment-table.js";
import type { Shelf } from "./shelf.js";
import type { UseCounts } from "./use-counts.js";
import type { WearCounter } from "./wear.js";

/** Segments that are kept free, so that a store seldom waits for room. */
const SEGMENTS_FREE_MIN = 1;
/** Where others copy blocks before they go, which takes longer: stores fill one more meanwhile … */
const SEGMENTS_FREE_MIN_LISTENING = 2;
/** … unless it would be too great a part of the drive. */
const SEGMENTS_TO_SPARE_MIN = 8;
/** Memory for blocks that are being copied, at most, but one block always fits. */
const STAGING_BYTES_MAX = 16 * 1024 * 1024;

/** A record of blocks to be copied: room is taken before anything is read, so that stores do not take it meanwhile. */
interface Copy {
  readonly shelf: Shelf;
  readonly rows: readonly number[];
  /** Where each lay when the room was taken. */
  readonly offsets4k: Uint32Array;
  readonly room: Room;
}

export interface EvictorParts {
  readonly drive: SegmentDrive;
  readonly table: SegmentTable;
  readonly log: SegmentLog;
  readonly reading: UseCounts;
  readonly wear: WearCounter;
  readonly leave: Leave;
  readonly logger: Logger;
  readonly clock: Clock;
  /** By their numbers. */
  readonly shelves: readonly Shelf[];
  /** What a block takes with all that goes with it, the largest of all namespaces in use: a store must find that much in a segment that has just
   * been opened, or it would wait for ever. */
  largestBlockBytes(): number;
}

export interface EvictorCounters {
  readonly segmentsEvicted: number;
  readonly blocksEvicted: number;
  readonly blocksReinserted: number;
  readonly segmentsDiscarded: number;
}

/** Makes room: gives up whole segments, oldest first, after copying what is used more than most. One at a time. */
export class Evictor {
  readonly #parts: EvictorParts;
  #running: Promise<void> | undefined;
  #staging: MappedRegion | undefined;
  #stopped = false;
  /** Whether a store waits for the segment that is being given up. */
  #isWaitedFor = false;
  #segmentsEvicted = 0;
  #blocksEvicted = 0;
  #blocksReinserted = 0;
  #segmentsDiscarded = 0;

  constructor(parts: EvictorParts) {
    this.#parts = parts;
  }

  get counters(): EvictorCounters {
    return {
      segmentsEvicted: this.#segmentsEvicted,
      blocksEvicted: this.#blocksEvicted,
      blocksReinserted: this.#blocksReinserted,
      segmentsDiscarded: this.#segmentsDiscarded,
    };
  }

  /** Begins to make room if there is too little, and if that can be done now. Best called when a segment has just been opened: copies go there. */
  poke(): void {
    if (this.#running !== undefined || this.#stopped) return;
    const { table, log, logger } = this.#parts;
    if (table.freeCount >= this.#segmentsFreeMin()) return;
    const victim = table.victim();
    if (victim === undefined) return; // once one has been sealed, whoever waits asks again
    this.#running = this.#evict(victim)
      .then(() => true)
      .catch((err: unknown) => {
        logger.error({ err, segment: victim }, "a segment could not be given up");
        return false;
      })
      .then((hasGone) => {
        this.#running = undefined;
        log.changed(); // whoever still waits asks again
        if (hasGone && this.#hasRoomForCopies()) this.poke(); // more than one may be wanted
      });
  }

  /** A store waits for room: what is being given up has no time to lose. */
  hurry(): void {
    this.#isWaitedFor = true;
    this.#parts.leave.hurry();
  }

  /** Settles when nothing is being evicted; nothing is begun any more. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.hurry();
    await this.#running;
    this.#staging?.close();
    this.#staging = undefined;
  }

  /** How many segments are to be free. */
  #segmentsFreeMin(): number {
    const { shelves, table } = this.#parts;
    const spares = table.segments >= SEGMENTS_TO_SPARE_MIN && shelves.some(({ hasListeners }) => hasListeners);
    return spares ? SEGMENTS_FREE_MIN_LISTENING : SEGMENTS_FREE_MIN;
  }

  /** Whether the open segment has as much room as copies may take. */
  #hasRoomForCopies(): boolean {
    const { log, table, drive } = this.#parts;
    const open = log.openSegment;
    if (open === undefined) return false;
    const taken = (table.usedBytes[open] as number) + (table.heldBytes[open] as number);
    return taken <= drive.segmentBytes * (1 - REINSERTED_SHARE_MAX);
  }

  async #evict(segment: number): Promise<void> {
    const { table, log, drive, reading, wear, leave, shelves, clock, logger } = this.#parts;
    this.#isWaitedFor = false;
    table.state[segment] = SegmentState.EVICTING;
    for (const copy of this.#plan(segment)) {
      try {
        await this.#copy(copy);
      } catch (err) {
        logger.warn({ err, segment }, "blocks worth keeping could not be copied");
      } finally {
        log.release(copy.room);
      }
    }
    const live = liveRows(table, segment, shelves);
    this.#blocksEvicted += await leave.letCopy(segment, live, this.#isWaitedFor);
    this.#dropRest(segment, live);
    await reading.idle(segment); // whoever is reading has come before; nobody can come any more
    wear.add("metadata", SEGMENT_HEADER_BYTES, clock.nowMs()); // which is zeroed
    try {
      await drive.discard(segment);
      this.#segmentsDiscarded++;
    } catch (err) {
      logger.warn({ err, segment }, "the room of a segment could not be given back to the drive");
    }
    this.#segmentsEvicted++;
    table.release(segment);
  }

  /** Chooses what to copy and takes room for it, all in one turn. */
  #plan(segment: number): Copy[] {
    const { table, shelves, log, drive, wear, clock, largestBlockBytes } = this.#parts;
    const bytesMax = Math.min(drive.segmentBytes * REINSERTED_SHARE_MAX, wear.leftBytes(clock.nowMs()));
    const leaveBytes = largestBlockBytes();
    const copies: Copy[] = [];
    const kept = bytesMax <= 0 ? [] : chooseKept(liveRows(table, segment, shelves), bytesMax);
    for (const { shelf, rows } of kept) {
      const perRecord = Math.max(1, Math.floor(STAGING_BYTES_MAX / shelf.paddedBytes));
      for (let at = 0; at < rows.length; ) {
        const room = log.tryReserve(shelf.namespace, Math.min(perRecord, rows.length - at), { leaveBytes });
        if (room === undefined) break; // of no use to wait for: it would be room that this very segment makes
        const part = rows.slice(at, at + room.blocks);
        copies.push({ shelf, room, rows: part, offsets4k: Uint32Array.from(part, (row) => shelf.offset4k(row)) });
        at += room.blocks;
      }
    }
    return copies;
  }

  /** Reads blocks and appends those that verify. */
  async #copy({ shelf, rows, offsets4k, room }: Copy): Promise<void> {
    const { drive, log, wear, clock } = this.#parts;
    const { namespace } = shelf;
    const present = [...rows.keys()].filter((i) => shelf.isAt(rows[i] as number, offsets4k[i] as number));
    if (present.length === 0) return;
    const at = Uint32Array.from(present, (i) => offsets4k[i] as number);
    const checksums = Uint32Array.from(present, (i) => shelf.checksum(rows[i] as number));
    const keys = shelf.index.keysOf(present.map((i) => rows[i] as number));
    const memory = {
      memory: this.#stagingFor(shelf, present.length),
      rowBytes: shelf.paddedBytes,
      priority: "store",
    } as const;
    const slots = Uint32Array.from(present, (_, slot) => slot);
    const read = await drive.read({ ...namespace, ...memory, keys: keys.bytes, offsets4k: at, checksums, slots });
    const good = slots.filter((slot) => read.outcomes[slot] === Outcome.LOADED);
    if (good.length === 0) return;
    const goodKeys = good.length === present.length ? keys.bytes : pick(keys.bytes, keys.stride, good);
    const bytes = recordBytes(good.length, namespace.blockBytes, namespace.keyBytes);
    wear.add("reinsertion", bytes, clock.nowMs());
    const { segment, epoch, sequence } = room;
    const offset = log.place(room, bytes);
    const place = { segment, epoch, sequence, offset };
    const appended = await drive.append({ ...namespace, ...memory, ...place, keys: goodKeys, slots: good });
    this.#relocate(shelf, place, good.length, (i) => {
      const slot = good[i] as number;
      const row = rows[present[slot] as number] as number;
      const whole = appended.outcomes[i] === Outcome.STORED && appended.checksums[i] === checksums[slot];
      return whole && shelf.isAt(row, at[slot] as number) ? row : undefined;
    });
  }

  /** From now on the copies count: block i of a record is that of the row. */
  #relocate(
    shelf: Shelf,
    record: { readonly segment: number; readonly offset: number },
    blocks: number,
    rowOf: (index: number) => number | undefined,
  ): void {
    const { table, drive } = this.#parts;
    const { blockBytes, keyBytes } = shelf.namespace;
    for (let i = 0; i < blocks; i++) {
      const row = rowOf(i);
      if (row === undefined) continue;
      const offset = record.offset + payloadOffset(i, blocks, blockBytes, keyBytes);
      const offset4k = driveOffset4k(record.segment, offset, drive.segmentBytes);
      table.dropEntry(segmentOf(shelf.offset4k(row), drive.segmentBytes));
      shelf.move(row, offset4k);
      table.addEntry(record.segment, shelf.id, row, offset4k);
      this.#blocksReinserted++;
    }
  }

  /** What still counts in a segment is there no more. */
  #dropRest(segment: number, live: ReadonlyMap<Shelf, readonly number[]>): void {
    const { segmentBytes } = this.#parts.drive;
    for (const [shelf, all] of live) {
      const rows = all.filter((row) => shelf.isIn(row, segment, segmentBytes));
      if (rows.length === 0) continue;
      const keys = shelf.index.keysOf(rows);
      for (const row of rows) shelf.drop(row);
      this.#blocksEvicted += rows.length;
      shelf.announce(keys, "evicted");
    }
  }

  #stagingFor(shelf: Shelf, blocks: number): Uint8Array {
    const needed = blocks * shelf.paddedBytes;
    if (this.#staging === undefined || this.#staging.mappedBytes < needed) {
      this.#staging?.close();
      const bytes = Math.max(STAGING_BYTES_MAX, needed);
      this.#staging = createRegion({ rows: 1, rowBytes: bytes });
    }
    return this.#staging.bytes;
  }
}

/** The keys of a packed batch at some positions. */
function pick(keys: Uint8Array, keyBytes: number, positions: Uint32Array): Uint8Array {
  const picked = new Uint8Array(positions.length * keyBytes);
  for (let i = 0; i < positions.length; i++) {
    const at = (positions[i] as number) * keyBytes;
    picked.set(keys.subarray(at, at + keyBytes), i * keyBytes);
  }
  return picked;
}

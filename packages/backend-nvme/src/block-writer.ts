import {
  type AuthorOptions,
  abortCode,
  type BatchResult,
  type BlockBatch,
  type Clock,
  type ErrorCode,
  type KeyBatch,
  KvferryError,
  keyAt,
  type Logger,
  NO_ROW,
  Outcome,
  selectBatch,
  selectKeys,
  setOutcome,
  toKvferryError,
  uniformResult,
} from "@kvferry/core";
import {
  type BlockResult,
  driveOffset4k,
  payloadOffset,
  recordBytes,
  type SegmentAppend,
  type SegmentDrive,
  type SegmentNamespace,
} from "@kvferry/native";
import { unlessAborted } from "./abort.js";
import {
  encodeTombstones,
  META_NAMESPACES,
  META_PAGE_BYTES,
  metaKeys,
  NAMESPACES,
  TOMBSTONES,
  WEAR,
} from "./meta-records.js";
import type { Room, SegmentLog } from "./segment-log.js";
import type { SegmentTable } from "./segment-table.js";
import { type SequenceSource, timeOf } from "./sequence.js";
import { type Flight, RowState, type Shelf } from "./shelf.js";
import type { WearCounter } from "./wear.js";

export interface WriterParts {
  readonly drive: SegmentDrive;
  readonly table: SegmentTable;
  readonly log: SegmentLog;
  readonly wear: WearCounter;
  readonly sequences: SequenceSource;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** What is to be written of a record: the part of an append that is not its place. */
type Payload = Pick<SegmentAppend, "keys" | "memory" | "rowBytes" | "slots" | "priority" | "signal">;

/** What became of a record, and where it begins in its segment. */
interface Appended extends BlockResult {
  readonly offset: number;
  readonly checksums: Uint32Array;
}

/** Flights are known by 32-bit numbers that come again after so many. */
const FLIGHT_NUMBERS = 2 ** 32;

/** Positions of a batch by what is to be done with them. */
interface Claim {
  /** To be written by this call; `rows[i]` is the row of position `mine[i]`. */
  readonly mine: number[];
  readonly rows: number[];
  /** Being written by others, or by this call under the same key. */
  readonly waiting: number[];
}

/** Puts blocks and facts into the log. */
export class BlockWriter {
  readonly #parts: WriterParts;
  readonly #flights: Map<number, Flight> = new Map();
  #flightNumber = 0;
  #wasOverBudget = false;
  /** Stores that the wear budget has refused, in blocks. */
  blocksDroppedByBudget = 0;

  constructor(parts: WriterParts) {
    this.#parts = parts;
  }

  /** Stores what is not there. A key that another call is storing is waited for, and stored if that fails. */
  async store(shelf: Shelf, batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const result = uniformResult(batch.keys.count, Outcome.FAILED);
    let left = Array.from({ length: batch.keys.count }, (_, i) => i);
    while (left.length > 0) {
      if (options.signal?.aborted) {
        for (const i of left) setOutcome(result, i, Outcome.FAILED, abortCode(options.signal));
        break;
      }
      left = await this.#storeOnce(shelf, batch, left, result, options);
    }
    return result;
  }

  /** Writes down that keys were removed, before anything that is stored from now on; settles when that will be known after a restart.
   * @throws what the drive says, or why the signal was aborted. */
  async writeTombstones(shelf: Shelf, keys: KeyBatch, signal?: AbortSignal): Promise<void> {
    const { log, table, sequences } = this.#parts;
    const sequence = sequences.next();
    const pages = encodeTombstones(shelf.namespace, keys);
    const count = pages.length / META_PAGE_BYTES;
    for (let at = 0; at < count; ) {
      const room = await log.reserve(TOMBSTONES, count - at, signal, { sequence });
      if (room === undefined) {
        throw new KvferryError(
          signal?.aborted ? abortCode(signal) : "CLOSED",
          "nvme backend: there was no room in time",
        );
      }
      table.hasTombstones[room.segment] = 1;
      await this.#appendPages(TOMBSTONES, room, pages.subarray(at * META_PAGE_BYTES));
      at += room.blocks;
    }
  }

  /** Writes the wear counter down if there is room in the open segment. */
  async writeWear(): Promise<void> {
    const room = this.#parts.log.tryReserve(WEAR, 1);
    if (room === undefined) return;
    const page = new Uint8Array(META_PAGE_BYTES);
    this.#parts.wear.encode(page);
    await this.#appendPages(WEAR, room, page);
  }

  /** Writes a namespace's record down if the open segment has room for all of it and so many bytes besides. */
  async writeNamespace(pages: Uint8Array, leaveBytes: number): Promise<void> {
    const { log } = this.#parts;
    const count = pages.length / META_PAGE_BYTES;
    const room = log.tryReserve(NAMESPACES, count, { leaveBytes });
    if (room === undefined) return;
    if (room.blocks === count) await this.#appendPages(NAMESPACES, room, pages);
    else log.release(room);
  }

  /** One round: writes what is missing, waits for what others write. Returns the positions that are still undecided. */
  async #storeOnce(
    shelf: Shelf,
    batch: BlockBatch,
    positions: readonly number[],
    result: BatchResult,
    options: AuthorOptions,
  ): Promise<number[]> {
    const { flight, land } = this.#begin();
    const { mine, rows, waiting } = this.#claim(shelf, batch.keys, positions, result, flight);
    const others = new Set<Promise<void>>();
    for (const i of waiting) {
      const other = this.#flightOf(shelf, shelf.index.find(keyAt(batch.keys, i)));
      if (other !== undefined && other !== flight) others.add(other.landed);
    }
    try {
      if (mine.length > 0) await this.#write(shelf, batch, mine, rows, result, options);
    } catch (thrown) {
      for (const row of rows) if (this.#flightOf(shelf, row) === flight) shelf.drop(row); // or others would wait for ever
      throw thrown;
    } finally {
      this.#flights.delete(flight.number);
      land();
    }
    if (others.size > 0) await unlessAborted(Promise.all(others), options.signal);
    return waiting;
  }

  /** Decides about each position, without a pause: what is missing becomes PENDING for others. */
  #claim(shelf: Shelf, keys: KeyBatch, positions: readonly number[], result: BatchResult, flight: Flight): Claim {
    const known = shelf.find(keys);
    const missing: number[] = [];
    const waiting: number[] = [];
    for (const i of positions) {
      const row = known[i] as number;
      if (row === NO_ROW) missing.push(i);
      else if (shelf.state(row) === RowState.STORED) setOutcome(result, i, Outcome.PRESENT);
      else waiting.push(i);
    }
    if (missing.length === 0) return { mine: [], rows: [], waiting };
    const first = missing[0] as number;
    const before = first === 0 ? NO_ROW : (known[first - 1] as number);
    const wanted = missing.length === keys.count ? keys : selectKeys(keys, missing);
    const added = shelf.addPending(wanted, before, flight, this.#parts.clock.nowMs());
    for (const [at, i] of missing.entries()) known[i] = added[at] as number;
    if (missing.length < keys.count) shelf.index.observe(keys, known);
    const mine: number[] = [];
    const seen = new Set<number>(); // a key may be twice in the batch
    for (const i of missing) (seen.size < seen.add(known[i] as number).size ? mine : waiting).push(i);
    return { mine, rows: mine.map((i) => known[i] as number), waiting };
  }

  /** Writes blocks in as many records as there is room for, several at once. */
  async #write(
    shelf: Shelf,
    batch: BlockBatch,
    mine: readonly number[],
    rows: readonly number[],
    result: BatchResult,
    options: AuthorOptions,
  ): Promise<void> {
    const writing: Promise<void>[] = [];
    let at = 0;
    const refuse = (outcome: Outcome, code: ErrorCode): void => {
      for (; at < mine.length; at++) {
        setOutcome(result, mine[at] as number, outcome, code);
        shelf.drop(rows[at] as number);
      }
    };
    while (at < mine.length) {
      if (this.#overBudget(shelf, mine.length - at)) {
        refuse(Outcome.DROPPED, "BUSY");
        break;
      }
      let room: Room | undefined;
      try {
        room = await this.#parts.log.reserve(shelf.namespace, mine.length - at, options.signal);
      } catch (thrown) {
        refuse(Outcome.FAILED, toKvferryError(thrown, "store").code);
        break;
      }
      if (room === undefined) {
        refuse(Outcome.FAILED, options.signal?.aborted ? abortCode(options.signal) : "CLOSED");
        break;
      }
      const end = at + room.blocks;
      writing.push(this.#writeRecord(shelf, batch, mine.slice(at, end), rows.slice(at, end), room, result, options));
      at = end;
    }
    await Promise.all(writing);
  }

  async #writeRecord(
    shelf: Shelf,
    batch: BlockBatch,
    positions: readonly number[],
    rows: readonly number[],
    room: Room,
    result: BatchResult,
    { signal, priority }: AuthorOptions,
  ): Promise<void> {
    const { drive, table } = this.#parts;
    const { keys, region, slots } = positions.length === batch.keys.count ? batch : selectBatch(batch, positions);
    const payload = { keys: keys.bytes, memory: region.bytes, rowBytes: region.rowBytes, slots, priority, signal };
    let written: Appended | ErrorCode;
    try {
      written = await this.#append(shelf.namespace, room, payload);
    } catch (thrown) {
      written = toKvferryError(thrown, "store").code;
    }
    const { blockBytes, keyBytes } = shelf.namespace;
    for (const [i, position] of positions.entries()) {
      const row = rows[i] as number;
      if (typeof written !== "string" && written.outcomes[i] === Outcome.STORED) {
        const offset = written.offset + payloadOffset(i, positions.length, blockBytes, keyBytes);
        const offset4k = driveOffset4k(room.segment, offset, drive.segmentBytes);
        shelf.land(row, offset4k, written.checksums[i] as number, timeOf(room.sequence));
        table.addEntry(room.segment, shelf.id, row, offset4k);
        setOutcome(result, position, Outcome.STORED);
        continue;
      }
      shelf.drop(row);
      setOutcome(result, position, Outcome.FAILED, typeof written === "string" ? written : undefined);
      if (typeof written !== "string") result.codes[position] = written.codes[i] as number;
    }
  }

  async #append(namespace: SegmentNamespace, room: Room, payload: Payload): Promise<Appended> {
    const { drive, log, wear, clock } = this.#parts;
    const { blockBytes, keyBytes } = namespace;
    const bytes = recordBytes(room.blocks, blockBytes, keyBytes);
    const padded = room.blocks * Math.ceil(blockBytes / META_PAGE_BYTES) * META_PAGE_BYTES;
    const isMeta = META_NAMESPACES.includes(namespace);
    if (!isMeta) wear.add("stores", padded, clock.nowMs());
    wear.add("metadata", isMeta ? bytes : bytes - padded, clock.nowMs());
    const { segment, epoch, sequence } = room;
    const offset = log.place(room, bytes);
    try {
      return { offset, ...(await drive.append({ ...namespace, ...payload, segment, offset, epoch, sequence })) };
    } finally {
      log.release(room);
    }
  }

  async #appendPages(namespace: SegmentNamespace, room: Room, pages: Uint8Array): Promise<void> {
    const memory = pages.subarray(0, room.blocks * META_PAGE_BYTES);
    const slots = Uint32Array.from({ length: room.blocks }, (_, i) => i);
    const payload = { keys: metaKeys(room.blocks), memory, rowBytes: META_PAGE_BYTES, slots };
    const { outcomes } = await this.#append(namespace, room, payload);
    if (outcomes[0] !== Outcome.STORED)
      throw new KvferryError("IO", "nvme backend: a fact about the drive was not written");
  }

  #overBudget(shelf: Shelf, blocks: number): boolean {
    const { wear, clock, logger } = this.#parts;
    const { blockBytes, keyBytes } = shelf.namespace;
    const over = recordBytes(blocks, blockBytes, keyBytes) > wear.leftBytes(clock.nowMs());
    if (over && !this.#wasOverBudget) {
      logger.warn(
        { dailyWriteBytesMax: wear.dailyWriteBytesMax },
        "the drive's daily write budget is used up: stores are dropped",
      );
    }
    this.#wasOverBudget = over;
    if (over) this.blocksDroppedByBudget += blocks;
    return over;
  }

  #begin(): { flight: Flight; land: () => void } {
    this.#flightNumber = (this.#flightNumber + 1) % FLIGHT_NUMBERS;
    let land = (): void => {};
    const landed = new Promise<void>((resolve) => {
      land = resolve;
    });
    const flight = { number: this.#flightNumber, landed };
    this.#flights.set(flight.number, flight);
    return { flight, land };
  }

  #flightOf(shelf: Shelf, row: number): Flight | undefined {
    return row !== NO_ROW && shelf.state(row) === RowState.PENDING ? this.#flights.get(shelf.checksum(row)) : undefined;
  }
}

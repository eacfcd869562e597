import {
  type BatchResult,
  type BlockLedger,
  type KeyBatch,
  type Logger,
  NO_ROW,
  Outcome,
  type Priority,
  type Region,
  selectKeys,
  uniformResult,
} from "@kvferry/core";
import type { HostArena } from "./arena.js";
import type { BlockFacts } from "./block-facts.js";
import type { Slots } from "./slots.js";

/** Blocks that stay where they are until they are released. */
export interface HeldBlocks {
  /** LOADED: it is held. MISS, CORRUPT, FAILED: it is not. */
  readonly result: BatchResult;
  /** Of each held block: bytes from the beginning of the arena's region; 0 for others. */
  readonly offsets: Float64Array;
}

export interface ReadOptions {
  readonly signal?: AbortSignal | undefined;
  readonly priority?: Priority | undefined;
}

export interface ReadsOptions {
  readonly arena: HostArena;
  readonly blocks: BlockLedger;
  readonly slots: Slots;
  readonly facts: BlockFacts;
  readonly blockBytes: number;
  readonly logger: Logger;
  nowMs(): number;
  /** Blocks were found damaged, and are gone. */
  damaged(keys: KeyBatch): void;
}

/** Reading what an arena has: a block that is read, or held, is not evicted and its slot is not used again. */
export class Reads {
  readonly #options: ReadsOptions;

  constructor(options: ReadsOptions) {
    this.#options = options;
  }

  /** Copies blocks out and verifies them. */
  async copyOut(
    keys: KeyBatch,
    rows: Int32Array,
    region: Region,
    targets: Uint32Array,
    options: ReadOptions,
  ): Promise<BatchResult> {
    const { slots, checksums } = this.#begin(rows);
    try {
      const result = await this.verify(slots, checksums, region, targets, options);
      this.#read(keys, rows, slots, result);
      return result;
    } finally {
      this.#end(rows, slots);
    }
  }

  /** Verifies blocks where they lie, and keeps them there. */
  async hold(keys: KeyBatch, rows: Int32Array, options: ReadOptions): Promise<HeldBlocks> {
    const { count } = keys;
    const found: number[] = [];
    for (let i = 0; i < count; i++) if (rows[i] !== NO_ROW) found.push(i);
    const held = { result: uniformResult(count, Outcome.MISS), offsets: new Float64Array(count) };
    if (found.length === 0) return held;
    const foundRows = Int32Array.from(found, (i) => rows[i] as number);
    const { slots, checksums } = this.#begin(foundRows);
    const kept = new Set<number>();
    try {
      const { region } = this.#options.arena;
      const own = { bytes: region.bytes, rowBytes: this.#options.slots.strideBytes };
      const verified = await this.verify(slots, checksums, own, slots, options);
      this.#read(selectKeys(keys, found), foundRows, slots, verified);
      for (const [k, i] of found.entries()) {
        held.result.outcomes[i] = verified.outcomes[k] as number;
        held.result.codes[i] = verified.codes[k] as number;
        if (verified.outcomes[k] !== Outcome.LOADED) continue;
        kept.add(k);
        held.offsets[i] = this.#keep(foundRows[k] as number, slots[k] as number);
      }
      return held;
    } finally {
      const others = [...found.keys()].filter((k) => !kept.has(k));
      this.#end(
        Int32Array.from(others, (k) => foundRows[k] as number),
        Uint32Array.from(others, (k) => slots[k] as number),
      );
    }
  }

  /** Takes back one hold of each block. Its slot.
   * @throws KvferryError INVALID_ARGUMENT for an offset that is not held. */
  release(offset: number): number {
    const { slots, blocks } = this.#options;
    const slot = offset / slots.strideBytes;
    const row = slots.endHolding(slot);
    if (row !== NO_ROW) blocks.unpin(Int32Array.of(row));
    return slot;
  }

  /** A block has gone. Whoever reads or holds it keeps its slot, but not its row: another block may get that. */
  drop(row: number): void {
    const { slots, blocks, facts } = this.#options;
    const slot = facts.slot(row);
    blocks.unpin(new Int32Array(slots.holdsOf(slot)).fill(row));
    blocks.drop(row);
    slots.release(slot);
  }

  /** @param region where the blocks go; the arena's own rows, to verify them in place. */
  verify(
    slots: Uint32Array,
    checksums: Uint32Array,
    { bytes, rowBytes }: Pick<Region, "bytes" | "rowBytes">,
    targets: Uint32Array,
    { signal, priority }: ReadOptions,
  ): Promise<BatchResult> {
    const { arena, slots: own, blockBytes } = this.#options;
    return arena.engine.copyBlocks({
      from: arena.region.bytes,
      fromRowBytes: own.strideBytes,
      fromSlots: slots,
      to: bytes,
      toRowBytes: rowBytes,
      toSlots: targets,
      blockBytes,
      checksums,
      mode: "verify",
      ...(priority === undefined ? {} : { priority }),
      signal,
    });
  }

  #begin(rows: Int32Array): { readonly slots: Uint32Array; readonly checksums: Uint32Array } {
    const { facts, blocks, slots: own } = this.#options;
    const slots = Uint32Array.from(rows, (row) => facts.slot(row));
    const checksums = Uint32Array.from(rows, (row) => facts.checksum(row));
    blocks.pin(rows);
    own.beginReading(slots, this.#options.nowMs());
    return { slots, checksums };
  }

  #end(rows: Int32Array, slots: Uint32Array): void {
    this.#options.slots.endReading(slots);
    this.#options.blocks.unpin(rows);
  }

  /** Makes the reading of a block that has ended a hold. Its offset. */
  #keep(row: number, slot: number): number {
    const { slots, blocks } = this.#options;
    slots.keepHolding(slot);
    if (slots.rowOf(slot) !== row) blocks.unpin(Int32Array.of(row)); // it was removed meanwhile
    return slot * slots.strideBytes;
  }

  #read(keys: KeyBatch, rows: Int32Array, slots: Uint32Array, result: BatchResult): void {
    this.#options.blocks.noteLoad(keys, rows);
    if (result.outcomes.includes(Outcome.CORRUPT)) this.#dropDamaged(keys, rows, slots, result);
  }

  #dropDamaged(keys: KeyBatch, rows: Int32Array, slots: Uint32Array, { outcomes }: BatchResult): void {
    const { slots: own, logger } = this.#options;
    const damaged: number[] = [];
    for (let i = 0; i < rows.length; i++) {
      const row = rows[i] as number;
      if (outcomes[i] !== Outcome.CORRUPT || own.rowOf(slots[i] as number) !== row) continue; // it has gone
      this.drop(row);
      damaged.push(i);
    }
    if (damaged.length === 0) return;
    logger.error({ blocks: damaged.length }, "blocks in memory were damaged");
    this.#options.damaged(selectKeys(keys, damaged));
  }
}

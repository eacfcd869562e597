import {
  type BatchResult,
  type CallOptions,
  type KeyBatch,
  keyAt,
  keyHex,
  type LeavingBlocks,
  mergeResult,
  NO_ROW,
  Outcome,
  type Region,
  selectKeys,
  setOutcome,
  uniformResult,
} from "@kvferry/core";
import type { SegmentDrive } from "@kvferry/native";
import { RowState, type Shelf } from "./shelf.js";
import type { UseCounts } from "./use-counts.js";

export interface LeavingParts {
  readonly drive: SegmentDrive;
  readonly reading: UseCounts;
}

/** Blocks of a segment that is being given up, out of the shelf already. They can be read from where they lie until `end`. */
export class LeavingBatch implements LeavingBlocks {
  readonly shelf: Shelf;
  readonly keys: KeyBatch;
  readonly patience: AbortSignal;
  readonly #parts: LeavingParts;
  readonly #segment: number;
  readonly #offsets4k: Uint32Array;
  readonly #checksums: Uint32Array;
  readonly #removed: Set<number> = new Set();
  readonly #corrupt: Set<number> = new Set();
  #positions: Map<string, number> | undefined;
  #ended = false;

  /** Takes the rows out of the shelf. */
  constructor(parts: LeavingParts, segment: number, shelf: Shelf, rows: readonly number[], patience: AbortSignal) {
    this.#parts = parts;
    this.#segment = segment;
    this.shelf = shelf;
    this.patience = patience;
    this.keys = shelf.index.keysOf(rows);
    this.#offsets4k = Uint32Array.from(rows, (row) => shelf.offset4k(row));
    this.#checksums = Uint32Array.from(rows, (row) => shelf.checksum(row));
    for (const row of rows) shelf.drop(row);
  }

  /** A property, since listeners may take it out of the object. After the end all is a MISS, and so is what was removed. */
  readonly load = async (
    positions: Uint32Array,
    region: Region,
    slots: Uint32Array,
    { signal, priority = "store" }: CallOptions = {},
  ): Promise<BatchResult> => {
    const result = uniformResult(positions.length, Outcome.MISS);
    if (this.#ended) return result;
    const wanted = [...positions.keys()].filter((i) => !this.#removed.has(positions[i] as number));
    if (wanted.length === 0) return result;
    const chosen = wanted.map((i) => positions[i] as number);
    const { drive, reading } = this.#parts;
    reading.begin(this.#segment); // it is not given up before the read has ended
    try {
      const read = await drive.read({
        ...this.shelf.namespace,
        keys: selectKeys(this.keys, chosen).bytes,
        offsets4k: Uint32Array.from(chosen, (position) => this.#offsets4k[position] as number),
        checksums: Uint32Array.from(chosen, (position) => this.#checksums[position] as number),
        memory: region.bytes,
        rowBytes: region.rowBytes,
        slots: Uint32Array.from(wanted, (i) => slots[i] as number),
        priority,
        signal,
      });
      mergeResult(result, wanted, read);
    } finally {
      reading.end(this.#segment);
    }
    for (const i of wanted) {
      const position = positions[i] as number;
      if (result.outcomes[i] === Outcome.CORRUPT) this.#corrupt.add(position);
      if (this.#removed.has(position)) setOutcome(result, i, Outcome.MISS); // meanwhile
    }
    return result;
  };

  /** These keys are removed: nobody gets them any more. Positions in `keys` of those that were here. */
  withdraw(keys: KeyBatch): number[] {
    this.#positions ??= positionsOf(this.keys);
    const withdrawn: number[] = [];
    for (let i = 0; i < keys.count; i++) {
      const position = this.#positions.get(keyHex(keyAt(keys, i)));
      if (position === undefined || this.#removed.has(position)) continue;
      this.#removed.add(position);
      withdrawn.push(i);
    }
    return withdrawn;
  }

  /** Nothing can be read any more. Tells everyone what has gone, but of what was removed, or stored anew meanwhile. Returns how many were damaged. */
  end(): number {
    this.#ended = true;
    const { shelf, keys } = this;
    const rows = shelf.find(keys);
    const evicted: number[] = [];
    const corrupt: number[] = [];
    for (let i = 0; i < keys.count; i++) {
      const row = rows[i] as number;
      if (this.#removed.has(i) || (row !== NO_ROW && shelf.state(row) === RowState.STORED)) continue;
      (this.#corrupt.has(i) ? corrupt : evicted).push(i);
    }
    if (evicted.length > 0) shelf.announce(selectKeys(keys, evicted), "evicted");
    if (corrupt.length > 0) shelf.announce(selectKeys(keys, corrupt), "corrupt");
    return this.#corrupt.size;
  }
}

function positionsOf(keys: KeyBatch): Map<string, number> {
  const positions = new Map<string, number>();
  for (let i = 0; i < keys.count; i++) positions.set(keyHex(keyAt(keys, i)), i);
  return positions;
}

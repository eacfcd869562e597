const GROWTH = 1.5;
const ROWS_MIN = 64;

/** Where each block lies, its checksum, and since when, by row of the ledger: 16 bytes a block. */
export class BlockFacts {
  #slots: Uint32Array = new Uint32Array(0);
  #checksums: Uint32Array = new Uint32Array(0);
  #storedAtMs: Float64Array = new Float64Array(0);

  set(row: number, slot: number, checksum: number, storedAtMs: number): void {
    if (row >= this.#slots.length) this.#grow(row);
    this.#slots[row] = slot;
    this.#checksums[row] = checksum;
    this.#storedAtMs[row] = storedAtMs;
  }

  slot(row: number): number {
    return this.#slots[row] as number;
  }

  checksum(row: number): number {
    return this.#checksums[row] as number;
  }

  storedAtMs(row: number): number {
    return this.#storedAtMs[row] as number;
  }

  #grow(row: number): void {
    const rows = Math.max(ROWS_MIN, Math.ceil((row + 1) * GROWTH));
    const [slots, checksums, storedAtMs] = [this.#slots, this.#checksums, this.#storedAtMs];
    this.#slots = new Uint32Array(rows);
    this.#slots.set(slots);
    this.#checksums = new Uint32Array(rows);
    this.#checksums.set(checksums);
    this.#storedAtMs = new Float64Array(rows);
    this.#storedAtMs.set(storedAtMs);
  }
}

import { type KeyBatch, keyAt, selectKeys } from "@kvferry/core";

export interface StoreRoomEnds {
  /** Of so many reserved blocks these are there now. */
  stored(reserved: number, keys: KeyBatch): void;
  /** Whether the storage carries out this store nobody knows yet; its room is held on. */
  late(key: Uint8Array): void;
}

/** The room of one batch of stores. */
export class StoreRoom {
  readonly #keys: KeyBatch;
  /** Position in the batch → index in `#keys`, for those that have room. */
  readonly #indices: ReadonlyMap<number, number>;
  readonly #ends: StoreRoomEnds;
  readonly #there: Set<number> = new Set();
  readonly #unknown: Set<number> = new Set();

  /** @param keys those at `positions`, of which the first `count` have room. */
  constructor(keys: KeyBatch, positions: readonly number[], count: number, ends: StoreRoomEnds) {
    this.#keys = keys;
    this.#indices = new Map(positions.slice(0, count).map((position, index) => [position, index]));
    this.#ends = ends;
  }

  has(position: number): boolean {
    return this.#indices.has(position);
  }

  /** Its block is there: stored by this call, or found there after this call has tried, which may have been its own doing. */
  isThere(position: number): void {
    const index = this.#indices.get(position) as number;
    this.#unknown.delete(index);
    this.#there.add(index);
  }

  /** A request was sent for it: unless it is told to be there, the storage may carry it out later all the same. */
  isUnknown(position: number): void {
    this.#unknown.add(this.#indices.get(position) as number);
  }

  /** After the batch has ended; whatever was not told of was not stored. */
  settle(): void {
    const there = [...this.#there].sort((a, b) => a - b); // as the request has them
    this.#ends.stored(this.#indices.size - this.#unknown.size, selectKeys(this.#keys, there));
    for (const index of this.#unknown) this.#ends.late(keyAt(this.#keys, index));
  }
}

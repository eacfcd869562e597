import {
  type BlockTable,
  type EvictionPolicy,
  NO_ROW,
  type PolicyFactory,
  PrefixIndex,
  packedKeys,
} from "../../src/index.js";

const KEY_BYTES = 8;

/** A tier of so many blocks that a policy rules, over a real index. Blocks are numbers; a request is a chain of them. */
export class Tier {
  readonly index: PrefixIndex = new PrefixIndex({ keyBytes: KEY_BYTES });
  readonly policy: EvictionPolicy;
  /** Victims so far, as blocks. */
  readonly evicted: number[] = [];
  readonly #capacityBlocks: number;
  /** Block of each row. */
  readonly #blocks: number[] = [];
  #nowMs = 0;
  #found = 0;
  #requested = 0;

  constructor(make: PolicyFactory, capacityBlocks: number, seed: number = 1) {
    this.#capacityBlocks = capacityBlocks;
    this.policy = make({ table: this.#table(), capacityBlocks, seed });
  }

  get hitRatio(): number {
    return this.#found / this.#requested;
  }

  /** The blocks that are there. */
  get blocks(): number[] {
    return Array.from(this.index.rows(), (row) => this.#blocks[row] as number);
  }

  /** Looks the request up, stores all of it and makes room. */
  request(blocks: readonly number[]): void {
    const keys = keysOf(blocks);
    const before = new Int32Array(blocks.length);
    const rows = new Int32Array(blocks.length);
    const foundBlocks = this.index.longestPrefix(keys);
    this.#found += foundBlocks;
    this.#requested += blocks.length;
    this.index.findMany(keys, before);
    this.index.insert(keys, { tier: 1, bytes: 1, nowMs: ++this.#nowMs }, rows);
    this.index.touch(before, this.#nowMs);
    for (let position = blocks.length - 1; position >= 0; position--) {
      const row = rows[position] as number;
      this.#blocks[row] = blocks[position] as number;
      const use = { nowMs: this.#nowMs, position, requestBlocks: blocks.length, foundBlocks };
      if (before[position] === NO_ROW) this.policy.inserted(row, use);
      else this.policy.used(row, use);
    }
    while (this.index.size > this.#capacityBlocks) this.remove(this.victim());
  }

  /** The policy's victim, checked: it is there, and without children. */
  victim(): number {
    const row = this.policy.victim(this.#nowMs);
    if (row === NO_ROW || this.index.tiers(row) === 0) throw new Error(`victim ${row} is not there`);
    if (this.index.children(row) > 0) throw new Error(`victim ${row} has children`);
    this.evicted.push(this.#blocks[row] as number);
    return row;
  }

  remove(row: number): void {
    this.policy.removed(row);
    this.index.delete(row);
  }

  rowOf(block: number): number {
    return this.index.find(keysOf([block]).bytes);
  }

  /** The index, with hashes that are the same in every process. */
  #table(): BlockTable {
    const { index } = this;
    return {
      get rowLimit() {
        return index.rowLimit;
      },
      parent: (row) => index.parent(row),
      children: (row) => index.children(row),
      lastUseMs: (row) => index.lastUseMs(row),
      uses: (row) => index.uses(row),
      hash: (row) => Math.imul((this.#blocks[row] as number) + 1, 0x9e3779b1) >>> 0,
    };
  }
}

function keysOf(blocks: readonly number[]): ReturnType<typeof packedKeys> {
  const bytes = new Uint8Array(blocks.length * KEY_BYTES);
  const view = new DataView(bytes.buffer);
  for (const [i, block] of blocks.entries()) view.setUint32(i * KEY_BYTES, block + 1);
  return packedKeys(bytes, KEY_BYTES);
}

/** 0 to 1, the same for the same seed. */
export function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) / 2 ** 32 + 0.5;
  };
}

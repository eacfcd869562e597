import { type BlockTable, NO_ROW } from "../prefix-index/block-table.js";
import { AGE_BUCKETS, AgeScale } from "./age-scale.js";
import { CLASS_LEVELS, CLASS_USES_MAX, CLASSES, classOf } from "./block-class.js";
import { Ghosts } from "./ghosts.js";
import type { BlockUse, EvictionPolicy, PolicyOptions } from "./policy.js";
import { RankedQueues } from "./ranked-queues.js";
import { ReuseLearner } from "./reuse-learner.js";
import { RowLists } from "./row-lists.js";
import { grownInt32, grownUint8, rowsFor } from "./rows.js";

/** Blocks that have gone and whose uses are remembered, for each of the capacity. */
const GHOSTS_SHARE = 5;
/** Ages are looked at again this often, in parts of a bucket, and not before so many uses. */
const SWEEPS_A_BUCKET = 4;
const SWEEP_USES_MIN = 32;

/** In place of a bucket: not in the table; has children and waits. */
const ABSENT = 255;
const WAITING = 254;

const QUEUES: number = CLASSES * AGE_BUCKETS;
/** The list behind the queues. */
const WAITING_LIST = QUEUES;

/**
 * Lets go of the block with the least reuse in prospect for the room that it takes. Blocks are told apart by class (uses so far, place in the request) and age since
 * the last use; how likely each kind is used again is learned from the requests themselves. docs/eviction.md explains it.
 *
 * Only blocks without children are ranked, in one queue for each class and bucket of age; the others wait until their last child has
 * gone. 15 bytes a row, 25 a block of the capacity for the ghosts, and at most 2 MB for what is learned.
 */
export class HazardPolicy implements EvictionPolicy {
  readonly name: string = "hazard";
  readonly #table: BlockTable;
  readonly #scale: AgeScale;
  readonly #learner: ReuseLearner;
  readonly #ghosts: Ghosts;
  readonly #lists: RowLists = new RowLists(QUEUES + 1);
  readonly #queues: RankedQueues = new RankedQueues(this.#lists, QUEUES);
  /** When each bucket's ages are looked at next, on the clock. */
  readonly #dueAt: Float64Array = new Float64Array(AGE_BUCKETS);
  /** The first of these. */
  #nextDueAt = 0;
  /** Uses of blocks so far, modulo 2^32: the clock of all ages. */
  #now = 0;
  #size = 0;
  /** Of the request whose blocks are being told. */
  #requestBlocks = 0;
  #lastPosition = 0;
  #knownBlocks = 0;
  /** By row: time of the last use on the clock, class, bucket, uses also before it was last evicted. */
  #usedAt: Int32Array = new Int32Array(0);
  #kinds: Uint8Array = new Uint8Array(0);
  #buckets: Uint8Array = new Uint8Array(0);
  #uses: Uint8Array = new Uint8Array(0);

  constructor({ table, capacityBlocks, seed = 1 }: PolicyOptions) {
    this.#table = table;
    const capacity = Math.max(1, capacityBlocks);
    this.#scale = new AgeScale(capacity);
    this.#learner = new ReuseLearner({ scale: this.#scale, capacityBlocks: capacity, levels: CLASS_LEVELS, seed });
    this.#ghosts = new Ghosts(capacity * GHOSTS_SHARE, seed);
    this.#queues.rank(this.#learner.worth);
  }

  get memoryBytes(): number {
    const rows = this.#usedAt.byteLength + this.#kinds.byteLength * 3;
    const lists = this.#queues.memoryBytes + this.#lists.memoryBytes;
    return rows + lists + this.#ghosts.memoryBytes + this.#learner.memoryBytes;
  }

  inserted(row: number, use: BlockUse): void {
    if (this.#has(row)) {
      this.used(row, use);
      return;
    }
    if (row >= this.#usedAt.length) this.#grow(row);
    const hash = this.#table.hash(row);
    const before = this.#ghosts.take(hash);
    this.#uses[row] = Math.min(before + 1, CLASS_USES_MAX);
    this.#size++;
    this.#use(row, hash, use);
  }

  used(row: number, use: BlockUse): void {
    if (!this.#has(row)) {
      this.inserted(row, use);
      return;
    }
    this.#unlist(row);
    this.#uses[row] = Math.min((this.#uses[row] as number) + 1, CLASS_USES_MAX);
    this.#use(row, this.#table.hash(row), use);
  }

  removed(row: number): void {
    if (!this.#has(row)) return;
    this.#unlist(row);
    this.#size--;
    this.#ghosts.add(this.#table.hash(row), this.#uses[row] as number);
    const parent = this.#table.parent(row);
    // the parent still counts this one
    if (parent !== NO_ROW && this.#isWaiting(parent) && this.#table.children(parent) <= 1) {
      this.#unlist(parent);
      this.#rankOldest(parent);
    }
  }

  victim(_nowMs: number): number {
    this.#sweep();
    for (let queue = this.#queues.least(); queue !== NO_ROW; queue = this.#queues.least()) {
      const row = this.#learner.ranksByAge ? this.#oldestOf(queue % AGE_BUCKETS) : this.#queues.oldest(queue);
      if (this.#table.children(row) === 0) return row;
      this.#unlist(row);
      this.#wait(row);
    }
    return this.#oldestWaiting();
  }

  worth(row: number, _nowMs: number): number {
    if (!this.#has(row)) return 0;
    return this.#learner.worth[this.#queueOf(row, this.#scale.bucket(this.#age(row)))] as number;
  }

  #has(row: number): boolean {
    return row >= 0 && row < this.#buckets.length && this.#buckets[row] !== ABSENT;
  }

  #isWaiting(row: number): boolean {
    return row < this.#buckets.length && this.#buckets[row] === WAITING;
  }

  #age(row: number): number {
    return (this.#now - (this.#usedAt[row] as number)) >>> 0;
  }

  #queueOf(row: number, bucket: number): number {
    return (this.#kinds[row] as number) * AGE_BUCKETS + bucket;
  }

  /** Of a row that is in no list. */
  #use(row: number, hash: number, use: BlockUse): void {
    this.#now = (this.#now + 1) >>> 0;
    const kind = classOf(use, this.#uses[row] as number, this.#knownOf(row, use));
    this.#kinds[row] = kind;
    this.#usedAt[row] = this.#now;
    if (this.#table.children(row) === 0) this.#rank(row);
    else this.#wait(row);
    if (this.#learner.add(hash, kind, this.#now)) this.#queues.rank(this.#learner.worth);
  }

  /** How many blocks of the request were known, up to the last one that was. Found out when the request begins, at its last block. */
  #knownOf(row: number, use: BlockUse): number {
    const isSameRequest = use.position < this.#lastPosition && use.requestBlocks === this.#requestBlocks;
    this.#lastPosition = use.position;
    if (isSameRequest) return this.#knownBlocks;
    this.#requestBlocks = use.requestBlocks;
    this.#knownBlocks = use.foundBlocks;
    let known = (this.#uses[row] as number) > 0;
    let position = use.position;
    for (let at = row; !known && position > use.foundBlocks; position--) {
      at = this.#table.parent(at);
      if (at === NO_ROW) return this.#knownBlocks;
      known = this.#has(at) || this.#ghosts.uses(this.#table.hash(at)) !== -1;
    }
    if (known) this.#knownBlocks = Math.max(use.foundBlocks, position + 1);
    return this.#knownBlocks;
  }

  #rank(row: number): void {
    const bucket = this.#scale.bucket(this.#age(row));
    this.#buckets[row] = bucket;
    this.#queues.push(this.#queueOf(row, bucket), row);
  }

  /** As the next to go of its queue: what had the last child is about as old as that. */
  #rankOldest(row: number): void {
    const bucket = this.#scale.bucket(this.#age(row));
    this.#buckets[row] = bucket;
    this.#queues.pushOldest(this.#queueOf(row, bucket), row);
  }

  #wait(row: number): void {
    this.#buckets[row] = WAITING;
    this.#lists.push(WAITING_LIST, row);
  }

  #unlist(row: number): void {
    const bucket = this.#buckets[row] as number;
    if (bucket === WAITING) this.#lists.remove(WAITING_LIST, row);
    else this.#queues.remove(this.#queueOf(row, bucket), row);
    this.#buckets[row] = ABSENT;
  }

  /** Nothing is ranked: what waits longest, unless its children have gone without a word. */
  #oldestWaiting(): number {
    for (let left = this.#size; left > 0; left--) {
      const row = this.#lists.back(WAITING_LIST);
      if (this.#table.children(row) === 0) return row;
      this.#unlist(row);
      this.#wait(row);
    }
    return this.#lists.back(WAITING_LIST);
  }

  /** The oldest of what is ranked at the back of a bucket's queues. */
  #oldestOf(bucket: number): number {
    let oldest = NO_ROW;
    for (let kind = 0; kind < CLASSES; kind++) {
      const row = this.#queues.oldest(kind * AGE_BUCKETS + bucket);
      if (row !== NO_ROW && (oldest === NO_ROW || this.#age(row) > this.#age(oldest))) oldest = row;
    }
    return oldest;
  }

  /** Moves rows that have outgrown their bucket on to their own. */
  #sweep(): void {
    if (((this.#now - this.#nextDueAt) | 0) < 0) return;
    let nextUses = 2 ** 30;
    for (let bucket = 0; bucket < AGE_BUCKETS - 1; bucket++) {
      if (((this.#now - (this.#dueAt[bucket] as number)) | 0) >= 0) {
        const pause = Math.max(SWEEP_USES_MIN, this.#scale.width(bucket) / SWEEPS_A_BUCKET);
        this.#dueAt[bucket] = (this.#now + Math.min(2 ** 30, Math.ceil(pause))) >>> 0;
        this.#sweepBucket(bucket);
      }
      nextUses = Math.min(nextUses, ((this.#dueAt[bucket] as number) - this.#now) >>> 0);
    }
    this.#nextDueAt = (this.#now + nextUses) >>> 0;
  }

  #sweepBucket(bucket: number): void {
    for (let kind = 0; kind < CLASSES; kind++) {
      const queue = kind * AGE_BUCKETS + bucket;
      let row = this.#queues.oldest(queue);
      while (row !== NO_ROW && this.#scale.bucket(this.#age(row)) > bucket) {
        this.#unlist(row);
        this.#rank(row);
        row = this.#queues.oldest(queue);
      }
    }
  }

  #grow(row: number): void {
    const rows = rowsFor(row);
    const before = this.#buckets.length;
    this.#usedAt = grownInt32(this.#usedAt, rows, 0);
    this.#kinds = grownUint8(this.#kinds, rows);
    this.#uses = grownUint8(this.#uses, rows);
    this.#buckets = grownUint8(this.#buckets, rows).fill(ABSENT, before);
  }
}

import { type ErrorCode, toKvferryError } from "../errors.js";
import type { PolicyFactory } from "../eviction/policy.js";
import type { KeyBatch } from "../keys.js";
import type { Clock, Logger } from "../runtime.js";
import type { Amount } from "./amount.js";
import type { BlockRoot } from "./catalog.js";
import type { CapacityFiles } from "./files.js";
import { FollowedEvictions } from "./followed.js";
import { Leader, type LeaderIndexes, type RootCount } from "./leader.js";
import { Lease } from "./lease.js";
import type { RecordKind } from "./log.js";
import { Loop } from "./loop.js";
import { Member } from "./member.js";
import type { CapacityPace } from "./pace.js";

/** How long after the last store or grant a process counts as active. */
const ACTIVE_FOR_MS = 3000;
/** The same trouble is told once in so long. */
const WARN_EVERY_MS = 10_000;
/** A folder is listed anew because of evictions that may have been missed, at most this often. */
const LOST_EVERY_MS = 5000;

/** What a storage gives to those who share its capacity, and what one process has configured. */
export interface SharedRootOptions {
  /** Where it is, for log lines. */
  readonly place: string;
  /** A name that no other process has or will have; docs/capacity.md. */
  readonly writer: string;
  readonly capacity: Amount;
  /** Bytes a tenant. */
  readonly quotas: ReadonlyMap<string, number>;
  readonly policy: PolicyFactory;
  readonly pace: CapacityPace;
  readonly files: CapacityFiles;
  readonly blocks: BlockRoot;
  /** Where an epoch's leader keeps its indexes. */
  indexesOf(epoch: number, warn: (thrown: unknown) => void): LeaderIndexes;
  /** Whether a writer has ended; undefined where that cannot be known. */
  hasEnded(writer: string): boolean | undefined;
  readonly logger: Logger;
  readonly clock: Clock;
}

/** Who keeps an index of a folder of blocks in this process. */
export interface FolderUser {
  /** As `folderName` gives it. */
  readonly folder: string;
  /** This process is about to evict from the folder; called before each `evicted`. */
  evicting(): void;
  /** These are not there any more. */
  evicted(keys: KeyBatch): void;
  /** Another process has evicted these; some may have been stored again since. */
  evictedElsewhere(keys: KeyBatch): Promise<void>;
  /** Evictions may have been missed: what is known of the folder may be wrong. */
  evictionsMissed(): void;
}

/** A root's capacity as one process sees it, for status pages. */
export interface RootStatus {
  readonly capacityBytes: number;
  /** Whether this process evicts and grants. */
  readonly leads: boolean;
  /** What the leader has counted; undefined in other processes. */
  readonly count: RootCount | undefined;
  /** Blocks that this process has evicted. */
  readonly evictedBlocks: number;
  /** Keys whose use was not told because too many came. */
  readonly usesForgotten: number;
}

/** This process's share in the common bound of a root: docs/capacity.md. One a root and process, shared by all its namespaces. */
export class SharedRoot {
  readonly #options: SharedRootOptions;
  readonly #users: Set<FolderUser> = new Set();
  readonly #lease: Lease;
  readonly #member: Member;
  readonly #followed: FollowedEvictions;
  readonly #memberLoop: Loop;
  readonly #leaderLoop: Loop;
  readonly #renewLoop: Loop;
  readonly #warnedAtMs: Map<string, number> = new Map();
  #leader: Leader | undefined;
  #indexes: LeaderIndexes | undefined;
  #evictedBefore = 0;
  #trouble: ErrorCode | undefined;
  #activeAtMs = Number.NEGATIVE_INFINITY;
  #missedAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: SharedRootOptions) {
    this.#options = options;
    const { files, writer, pace, capacity, quotas, logger, clock } = options;
    const time = { nowMs: () => clock.nowMs(), monotonicMs: () => clock.monotonicMs() };
    const warn = (thrown: unknown): ErrorCode => this.#warn(thrown);
    const hasEnded = (name: string): boolean => options.hasEnded(name) === true;
    const lease = new Lease({ files, writer, expiryMs: pace.leaseExpiryMs, hasEnded, ...time });
    this.#lease = lease;
    const wake = (): void => this.#memberLoop.kick();
    const capacityBytes = capacity.bytes;
    this.#member = new Member({ files, lease, writer, pace, capacityBytes, quotas, logger, warn, wake, ...time });
    this.#followed = new FollowedEvictions({
      files,
      onEvicted: (name, keys) => this.#evictedElsewhere(name, keys),
      onLost: () => this.#missed(),
    });
    this.#memberLoop = new Loop(
      () => this.#memberTurn(),
      (thrown) => {
        this.#trouble = warn(thrown);
        this.#member.giveUpWaiting();
      },
    );
    this.#leaderLoop = new Loop(() => this.#leaderTurn(), warn);
    this.#renewLoop = new Loop(async () => {
      await lease.renew();
      return lease.held === 0 ? Number.POSITIVE_INFINITY : pace.renewMs;
    }, warn);
  }

  /** Begins to take part. */
  start(): void {
    this.#memberLoop.kick();
  }

  get status(): RootStatus {
    return {
      capacityBytes: this.#options.capacity.bytes,
      leads: this.#leader !== undefined,
      count: this.#leader?.count,
      evictedBlocks: this.#evictedBefore + (this.#leader?.evictedBlocks ?? 0),
      usesForgotten: this.#member.usesForgotten,
    };
  }

  /** Why this server cannot ask for room at present: its last turn has failed. */
  get trouble(): ErrorCode | undefined {
    return this.#trouble;
  }

  join(user: FolderUser): void {
    this.#users.add(user);
  }

  leave(user: FolderUser): void {
    this.#users.delete(user);
  }

  /** Room for up to `count` files; how many got room, after a short wait where there is none. To be ended by `settle`. */
  reserve(tenant: string, count: number, fileBytes: number, signal?: AbortSignal): Promise<number> {
    this.#activeAtMs = this.#options.clock.monotonicMs();
    return this.#member.reserve(tenant, count, fileBytes, signal);
  }

  /** `keys`: which of the reserved files are there now; `lost`: of how many nobody knows. */
  settle(tenant: string, reserved: number, fileBytes: number, folder: string, keys: KeyBatch, lost: number): void {
    this.#member.settle(tenant, reserved, fileBytes, folder, keys, lost);
  }

  /** Tells how blocks are used. */
  tell(kind: RecordKind, folder: string, keys: KeyBatch): void {
    this.#member.tell(kind, folder, keys);
  }

  async close(): Promise<void> {
    await this.#renewLoop.stop();
    await this.#memberLoop.stop();
    await this.#leaderLoop.stop();
    await this.#closeIndexes();
    try {
      await this.#member.close();
      await this.#lease.resign();
    } catch (thrown) {
      this.#warn(thrown); // the others find it out
    }
  }

  /** One turn as a server. Returns the pause before the next. */
  async #memberTurn(): Promise<number> {
    const names = await this.#options.files.list();
    const epoch = this.#lease.note(names);
    await this.#member.turn(epoch);
    this.#trouble = undefined;
    await this.#followed.follow(names, epoch, this.#lease.held);
    if (this.#leader === undefined && (await this.#lease.isFree(names)) && (await this.#lease.take())) this.#lead();
    const { hurryMs, idleMs } = this.#options.pace;
    if (!this.#member.waits) return this.#pause(idleMs);
    if (this.#leader !== undefined) this.#leaderLoop.kick();
    return hurryMs;
  }

  async #leaderTurn(): Promise<number> {
    const { hurryMs, leaderIdleMs } = this.#options.pace;
    const leader = this.#leader;
    if (leader === undefined) return Number.POSITIVE_INFINITY;
    const names = await this.#options.files.list();
    const epoch = this.#lease.held;
    if (epoch === 0 || this.#lease.note(names) !== epoch || !(await leader.turn(names))) {
      this.#evictedBefore += leader.evictedBlocks;
      this.#leader = undefined;
      await this.#closeIndexes();
      this.#options.logger.info({ root: this.#options.place }, "another server evicts in this root from now on");
      return Number.POSITIVE_INFINITY;
    }
    if (this.#member.waits) this.#memberLoop.kick();
    if (leader.busy) return 0;
    return leader.wasAsked ? hurryMs : this.#pause(leaderIdleMs);
  }

  #pause(idleMs: number): number {
    const isActive = this.#options.clock.monotonicMs() - this.#activeAtMs < ACTIVE_FOR_MS;
    return isActive ? this.#options.pace.activeMs : idleMs;
  }

  #lead(): void {
    const { files, blocks, clock, place, logger } = this.#options;
    const epoch = this.#lease.held;
    const warn = (thrown: unknown): void => void this.#warn(thrown);
    logger.info({ root: place, epoch }, "this server evicts in this root from now on");
    this.#indexes = this.#options.indexesOf(epoch, warn);
    this.#leader = new Leader({
      ...this.#options,
      indexes: this.#indexes,
      root: blocks,
      hooks: {
        evicting: (folder) => {
          for (const user of this.#usersOf(folder)) user.evicting();
        },
        evicted: (folder, keys) => {
          for (const user of this.#usersOf(folder)) user.evicted(keys);
        },
      },
      epoch,
      isCurrent: async () => this.#lease.note(await files.list()) === epoch,
      warn,
      nowMs: () => clock.nowMs(),
      monotonicMs: () => clock.monotonicMs(),
      hasEnded: (writer) => this.#options.hasEnded(writer),
    });
    this.#leaderLoop.kick();
    this.#renewLoop.kick();
  }

  async #closeIndexes(): Promise<void> {
    const indexes = this.#indexes;
    this.#indexes = undefined;
    await indexes?.close().catch((thrown: unknown) => this.#warn(thrown));
  }

  #usersOf(folder: string): FolderUser[] {
    return [...this.#users].filter((user) => user.folder === folder);
  }

  async #evictedElsewhere(folder: string, keys: KeyBatch): Promise<void> {
    for (const user of this.#usersOf(folder)) await user.evictedElsewhere(keys);
  }

  #missed(): void {
    const now = this.#options.clock.monotonicMs();
    if (now - this.#missedAtMs < LOST_EVERY_MS) return;
    this.#missedAtMs = now;
    for (const user of this.#users) user.evictionsMissed();
  }

  #warn(thrown: unknown): ErrorCode {
    const err = toKvferryError(thrown, "capacity", { root: this.#options.place });
    const now = this.#options.clock.monotonicMs();
    if (now - (this.#warnedAtMs.get(err.code) ?? Number.NEGATIVE_INFINITY) < WARN_EVERY_MS) return err.code;
    this.#warnedAtMs.set(err.code, now);
    this.#options.logger.warn({ err }, "the root's capacity could not be looked after; this is tried again");
    return err.code;
  }
}

import { mkdir, realpath } from "node:fs/promises";
import { join } from "node:path";
import {
  type Clock,
  type ErrorCode,
  type KeyBatch,
  type Logger,
  type PolicyFactory,
  toKvferryError,
} from "@kvferry/core";
import { createFileEngine, type FileEngine } from "@kvferry/native";
import { newWriterName, writerHasEnded } from "../writers.js";
import { NativeBlockRoot, removeDeadScratch, scratchFolder } from "./block-root.js";
import { type CapacityFiles, openCapacityFiles } from "./files.js";
import { FollowedEvictions } from "./followed.js";
import { SavedIndexes } from "./indexes.js";
import { Leader, type RootCount } from "./leader.js";
import { Lease } from "./lease.js";
import type { RecordKind } from "./log.js";
import { Loop } from "./loop.js";
import { Member } from "./member.js";

/** The lease is renewed this often, and free when it has not changed for so long in the eyes of who waits for it. */
const RENEW_MS = 1000;
const EXPIRY_MS = 5000;
/** Pauses between turns: while stores wait, while there is something to do, and else. */
const HURRY_MS = 10;
const ACTIVE_MS = 50;
const IDLE_MS = 250;
/** How long after the last store or grant a process counts as active. */
const ACTIVE_FOR_MS = 3000;
/** The same trouble is told once in so long. */
const WARN_EVERY_MS = 10_000;
/** A folder is listed anew because of evictions that may have been missed, at most this often. */
const LOST_EVERY_MS = 5000;

/** The capacity of a root as one process has it configured. */
export interface RootCapacity {
  /** Absolute path. */
  readonly root: string;
  readonly capacityBytes: number;
  readonly filesMax?: number | undefined;
  /** Bytes a tenant. */
  readonly quotas: ReadonlyMap<string, number>;
  readonly policy: PolicyFactory;
  readonly fileMode: number;
  readonly folderMode: number;
  /** To share; whoever made it closes it. */
  readonly engine?: FileEngine | undefined;
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
  readonly #options: RootCapacity;
  readonly #users: Set<FolderUser> = new Set();
  /** `capacity/` below the root. */
  readonly #folder: string;
  readonly #files: CapacityFiles;
  readonly #lease: Lease;
  readonly #member: Member;
  readonly #followed: FollowedEvictions;
  readonly #blocks: NativeBlockRoot;
  readonly #ownEngine: FileEngine | undefined;
  readonly #memberLoop: Loop;
  readonly #leaderLoop: Loop;
  readonly #renewLoop: Loop;
  readonly #warnedAtMs: Map<string, number> = new Map();
  #leader: Leader | undefined;
  #indexes: SavedIndexes | undefined;
  #evictedBefore = 0;
  #trouble: ErrorCode | undefined;
  #activeAtMs = Number.NEGATIVE_INFINITY;
  #missedAtMs = Number.NEGATIVE_INFINITY;

  private constructor(options: RootCapacity, folder: string, files: CapacityFiles, own: string) {
    this.#options = options;
    this.#folder = folder;
    this.#files = files;
    const { logger, clock, capacityBytes, quotas } = options;
    const nowMs = (): number => clock.nowMs();
    const monotonicMs = (): number => clock.monotonicMs();
    const warn = (thrown: unknown): ErrorCode => this.#warn(thrown);
    const hasEnded = (name: string): boolean => writerHasEnded(name) === true;
    this.#lease = new Lease({ files, writer: own, expiryMs: EXPIRY_MS, monotonicMs, hasEnded });
    const wake = (): void => this.#hurry();
    const lease = this.#lease;
    this.#member = new Member({
      files,
      lease,
      writer: own,
      capacityBytes,
      quotas,
      logger,
      nowMs,
      monotonicMs,
      warn,
      wake,
    });
    this.#followed = new FollowedEvictions({
      files,
      onEvicted: (name, keys) => this.#evictedElsewhere(name, keys),
      onLost: () => this.#missed(),
    });
    this.#ownEngine = options.engine === undefined ? createFileEngine({ threads: 2 }) : undefined;
    const engine = options.engine ?? (this.#ownEngine as FileEngine);
    this.#blocks = new NativeBlockRoot({ ...options, engine, writer: own, scratch: scratchFolder(folder, own), nowMs });
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
      return lease.held === 0 ? Number.POSITIVE_INFINITY : RENEW_MS;
    }, warn);
  }

  static async open(options: RootCapacity): Promise<SharedRoot> {
    const folder = join(options.root, "capacity");
    const { fileMode, folderMode } = options;
    const writer = newWriterName();
    const files = await openCapacityFiles({ folder, writer, fileMode, folderMode });
    await removeDeadScratch(folder);
    const root = new SharedRoot(options, folder, files, writer);
    root.#memberLoop.kick();
    return root;
  }

  get status(): RootStatus {
    return {
      capacityBytes: this.#options.capacityBytes,
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
    await this.#blocks.close();
    await this.#ownEngine?.close();
  }

  /** One turn as a server. Returns the pause before the next. */
  async #memberTurn(): Promise<number> {
    const names = await this.#files.list();
    const epoch = this.#lease.note(names);
    await this.#member.turn(epoch);
    this.#trouble = undefined;
    await this.#followed.follow(names, epoch, this.#lease.held);
    if (this.#leader === undefined && (await this.#lease.isFree(names)) && (await this.#lease.take())) this.#lead();
    if (!this.#member.waits) return this.#pause;
    if (this.#leader !== undefined) this.#leaderLoop.kick();
    return HURRY_MS;
  }

  async #leaderTurn(): Promise<number> {
    const leader = this.#leader;
    if (leader === undefined) return Number.POSITIVE_INFINITY;
    const names = await this.#files.list();
    const epoch = this.#lease.held;
    if (epoch === 0 || this.#lease.note(names) !== epoch || !(await leader.turn(names))) {
      this.#evictedBefore += leader.evictedBlocks;
      this.#leader = undefined;
      await this.#closeIndexes();
      this.#options.logger.info({ root: this.#options.root }, "another server evicts in this root from now on");
      return Number.POSITIVE_INFINITY;
    }
    if (this.#member.waits) this.#memberLoop.kick();
    if (leader.busy) return 0;
    return leader.wasAsked ? HURRY_MS : this.#pause;
  }

  get #pause(): number {
    return this.#options.clock.monotonicMs() - this.#activeAtMs < ACTIVE_FOR_MS ? ACTIVE_MS : IDLE_MS;
  }

  #hurry(): void {
    this.#memberLoop.kick();
  }

  #lead(): void {
    const { capacityBytes, filesMax, clock, root, logger } = this.#options;
    const epoch = this.#lease.held;
    logger.info({ root, epoch }, "this server evicts in this root from now on");
    this.#indexes = new SavedIndexes({ folder: this.#folder, epoch, clock, warn: (thrown) => this.#warn(thrown) });
    this.#leader = new Leader({
      ...this.#options,
      indexes: this.#indexes,
      files: this.#files,
      root: this.#blocks,
      capacity: { bytes: capacityBytes, files: filesMax ?? Number.POSITIVE_INFINITY },
      hooks: {
        evicting: (folder) => {
          for (const user of this.#usersOf(folder)) user.evicting();
        },
        evicted: (folder, keys) => {
          for (const user of this.#usersOf(folder)) user.evicted(keys);
        },
      },
      epoch,
      isCurrent: async () => this.#lease.note(await this.#files.list()) === epoch,
      warn: (thrown) => this.#warn(thrown),
      nowMs: () => clock.nowMs(),
      monotonicMs: () => clock.monotonicMs(),
      hasEnded: writerHasEnded,
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
    const err = toKvferryError(thrown, "capacity", { root: this.#options.root });
    const now = this.#options.clock.monotonicMs();
    if (now - (this.#warnedAtMs.get(err.code) ?? Number.NEGATIVE_INFINITY) < WARN_EVERY_MS) return err.code;
    this.#warnedAtMs.set(err.code, now);
    this.#options.logger.warn({ err }, "the root's capacity could not be looked after; this is tried again");
    return err.code;
  }
}

interface Registered {
  readonly opening: Promise<SharedRoot>;
  users: number;
}

const roots: Map<string, Registered> = new Map();

/** The process's share in a root: the same for all who ask, as the first one has configured it. Each gives it back by `releaseRoot`. */
export async function acquireRoot(options: RootCapacity): Promise<SharedRoot> {
  await mkdir(options.root, { recursive: true, mode: options.folderMode });
  const path = await realpath(options.root);
  let entry = roots.get(path);
  if (entry === undefined) {
    entry = { opening: SharedRoot.open(options), users: 0 };
    roots.set(path, entry);
  }
  entry.users++;
  try {
    return await entry.opening;
  } catch (thrown) {
    roots.delete(path);
    throw thrown;
  }
}

export async function releaseRoot(root: SharedRoot): Promise<void> {
  for (const [path, entry] of roots) {
    if ((await entry.opening.catch(() => undefined)) !== root) continue;
    entry.users--;
    if (entry.users > 0) return;
    roots.delete(path);
    await root.close();
  }
}

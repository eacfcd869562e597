import {
  type KeyBatch,
  keyAt,
  keyHex,
  Outcome,
  POLICIES,
  PrefixIndex,
  packKeys,
  silentLogger,
} from "../../src/index.js";
import { type Amount, plus } from "../../src/shared-capacity/amount.js";
import type { BlockFolder, BlockRoot, FolderBlocks } from "../../src/shared-capacity/catalog.js";
import type { CapacityFiles } from "../../src/shared-capacity/files.js";
import { LateStores } from "../../src/shared-capacity/late-stores.js";
import { Leader } from "../../src/shared-capacity/leader.js";
import { Lease } from "../../src/shared-capacity/lease.js";
import { RecordKind } from "../../src/shared-capacity/log.js";
import { Member } from "../../src/shared-capacity/member.js";
import { type CapacityObjects, ObjectFiles } from "../../src/shared-capacity/object-files.js";
import { type CapacityPace, SWIFT_PACE } from "../../src/shared-capacity/pace.js";

const KEY_BYTES = 8;
export const FILE_BYTES = 8192;
const LEAVES = 3;
const STEP_MS_MAX = 4;
/** A task that seldom has something to do gets its turn so much less often. */
const SELDOM = 0.1;

/** A generator of numbers below 1 (mulberry32). */
function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

interface Step {
  readonly process: Process;
  run(): void;
  /** What it does to the storage, if that may happen though its process does not live to hear of it. */
  readonly effect?: (() => unknown) | undefined;
  /** The pause of a task that seldom has something to do: taken a tenth as often. */
  readonly isPause?: boolean | undefined;
}

/** A folder, whose files are there at once and may be torn; or a bucket, whose requests may fail and have worked, or work later. */
export type StorageKind = "files" | "objects";

const PACES: Readonly<Record<StorageKind, CapacityPace>> = {
  files: SWIFT_PACE,
  objects: { ...SWIFT_PACE, lateMs: 1000 },
};
/** Of the requests to a bucket. */
const FAILURES = 0.04;

/** What a namespace has on the modelled storage. */
interface Shelf {
  readonly tenant: string;
  readonly blocks: Map<string, Uint8Array>;
  /** Temporary files, by who writes them. */
  readonly unfinished: Map<string, Process>;
  quarantined: number;
}

/** A storage and a clock whose steps are taken one at a time, in an order that a seed decides. */
export class World {
  readonly random: () => number;
  readonly shelves: Map<string, Shelf> = new Map();
  readonly files: Map<string, Uint8Array> = new Map();
  readonly processes: Process[] = [];
  /** Whether a server's state was damaged at some time. */
  stateSpoiled = false;
  /** Whether servers go on storing. */
  storing = true;
  nowMs = 1_700_000_000_000;
  readonly kind: StorageKind;
  readonly pace: CapacityPace;
  readonly #pending: Step[] = [];
  /** Requests that their process has given up, or did not live to see the end of. */
  #late: { readonly untilMs: number; readonly effect: () => unknown }[] = [];

  constructor(seed: number, tenants: readonly string[], kind: StorageKind) {
    this.kind = kind;
    this.pace = PACES[kind];
    this.random = randomOf(seed);
    for (const tenant of tenants) {
      this.shelves.set(`of-${tenant}`, { tenant, blocks: new Map(), unfinished: new Map(), quarantined: 0 });
    }
  }

  /** Blocks from before. */
  fill(folder: string, count: number): void {
    for (let i = 0; i < count; i++) this.shelves.get(folder)?.blocks.set(keyHex(keyOf(i)), keyOf(i));
  }

  /** Files there are: of a tenant those with a name and those that a living process writes; of all, everything. */
  fileCount(tenant?: string): number {
    let count = 0;
    for (const shelf of this.shelves.values()) {
      if (tenant === undefined) count += shelf.blocks.size + shelf.unfinished.size + shelf.quarantined;
      else if (shelf.tenant === tenant) {
        count += shelf.blocks.size + [...shelf.unfinished.values()].filter((process) => !process.crashed).length;
      }
    }
    return count;
  }

  /** One step of `process`, when its turn comes; never for a process that has crashed. */
  step<T>(process: Process, run: () => T, isPause?: boolean): Promise<T> {
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        try {
          resolve(run());
        } catch (thrown) {
          reject(thrown);
        }
      };
      this.#pending.push({ process, run: settle, isPause });
    });
  }

  /** As `step`, of something that changes the storage: a request to a bucket may fail without a word of what becomes of it. */
  request<T>(process: Process, effect: () => T): Promise<T> {
    if (this.kind === "files") return this.step(process, effect);
    return new Promise((resolve, reject) => {
      const run = (): void => {
        if (this.random() >= FAILURES) resolve(effect());
        else {
          this.#loseSight(effect);
          reject(new Error("the request was cut off"));
        }
      };
      this.#pending.push({ process, run, effect });
    });
  }

  /** Ends a process: its requests on the way may arrive, or not. */
  crash(process: Process): void {
    process.crashed = true;
    for (const step of this.#pending) {
      if (step.process === process && step.effect !== undefined) this.#loseSight(step.effect);
    }
  }

  /** Time passes in which no process does anything. */
  pass(ms: number): void {
    this.nowMs += ms;
    this.#takeLate(({ untilMs }) => untilMs <= this.nowMs);
  }

  /** It never happens, has happened, or happens later. */
  #loseSight(effect: () => unknown): void {
    const kind = this.random();
    if (kind < 0.2) effect();
    else if (kind < 0.8) this.#late.push({ untilMs: this.nowMs + this.pace.lateMs - STEP_MS_MAX, effect });
  }

  #takeLate(isDue: (late: { readonly untilMs: number }) => boolean): void {
    const due = this.#late.filter(isDue);
    this.#late = this.#late.filter((late) => !due.includes(late));
    for (const { effect } of due) effect();
  }

  /** Takes one step of a process that runs; false if there is none. */
  async advance(): Promise<boolean> {
    this.#takeLate(({ untilMs }) => untilMs <= this.nowMs || this.random() < 0.003);
    const open = this.#pending.filter(({ process }) => !process.crashed && !process.paused);
    if (open.length === 0) return false;
    const any = (): Step => open[Math.floor(this.random() * open.length)] as Step;
    let step = any();
    while (step.isPause && this.random() >= SELDOM) step = any();
    this.#pending.splice(this.#pending.indexOf(step), 1);
    this.nowMs += this.random() * STEP_MS_MAX;
    step.run();
    await new Promise(setImmediate);
    return true;
  }
}

/** A server as `SharedRoot` composes it, on the modelled storage. */
export class Process {
  readonly writer: string;
  readonly member: Member;
  readonly lease: Lease;
  leader: Leader | undefined;
  paused = false;
  crashed = false;
  /** Batches that hold room. */
  writing = 0;
  storedBlocks = 0;
  /** Whether others can see that it has crashed. */
  readonly local: boolean;
  readonly #world: World;
  readonly #files: CapacityFiles;
  readonly #capacity: Amount;
  readonly #quotas: ReadonlyMap<string, number>;

  constructor(world: World, capacity: Amount, quotas: ReadonlyMap<string, number>, local: boolean) {
    this.#world = world;
    this.#capacity = capacity;
    this.#quotas = quotas;
    this.local = local;
    this.writer = `host-${world.processes.length}-1-${world.processes.length.toString(16).padStart(12, "0")}`;
    world.processes.push(this);
    this.#files = world.kind === "files" ? filesOf(world, this) : new ObjectFiles(objectsOf(world, this));
    const { pace } = world;
    const time = { nowMs: () => world.nowMs, monotonicMs: () => world.nowMs };
    const hasEnded = (writer: string): boolean => endedOf(world, writer) === true;
    this.lease = new Lease({
      files: this.#files,
      writer: this.writer,
      expiryMs: pace.leaseExpiryMs,
      hasEnded,
      ...time,
    });
    this.member = new Member({
      files: this.#files,
      lease: this.lease,
      writer: this.writer,
      pace,
      capacityBytes: capacity.bytes,
      quotas,
      logger: silentLogger,
      warn() {},
      wake() {},
      ...time,
    });
    void this.#repeat(() => this.#memberTurn());
    void this.#repeat(() => this.#leaderTurn());
    void this.#repeat(() => this.lease.renew());
    for (const [name, { tenant }] of world.shelves) {
      if (world.kind === "files") void this.#repeat(() => this.#store(name, tenant));
      else {
        const late = this.#lateStores(name, tenant);
        void this.#repeat(() => this.#put(name, tenant, late));
        void this.#repeat(() => this.#quarantine(name, tenant), true);
        void this.#repeat(() => late.turn(), true);
      }
    }
  }

  async #repeat(task: () => Promise<unknown>, isSeldom?: boolean): Promise<void> {
    for (;;) {
      await this.#world.step(this, () => {}, isSeldom);
      try {
        await task();
      } catch (thrown) {
        if (this.#world.kind === "files") throw thrown; // a bucket's requests may fail
      }
    }
  }

  async #memberTurn(): Promise<void> {
    const names = await this.#files.list();
    await this.member.turn(this.lease.note(names));
    if (this.leader !== undefined || !(await this.lease.isFree(names)) || !(await this.lease.take())) return;
    const epoch = this.lease.held;
    this.leader = new Leader({
      files: this.#files,
      root: blocksOf(this.#world, this),
      indexes: { open: async (_, keyBytes) => new PrefixIndex({ keyBytes }), async close() {} },
      pace: this.#world.pace,
      policy: POLICIES.lru,
      capacity: this.#capacity,
      quotas: this.#quotas,
      logger: silentLogger,
      hooks: { evicting() {}, evicted() {} },
      epoch,
      isCurrent: async () => this.lease.note(await this.#files.list()) === epoch,
      warn() {},
      nowMs: () => this.#world.nowMs,
      monotonicMs: () => this.#world.nowMs,
      hasEnded: (writer) => endedOf(this.#world, writer),
    });
  }

  async #leaderTurn(): Promise<void> {
    const { leader } = this;
    if (leader === undefined) return;
    const names = await this.#files.list();
    const { held } = this.lease;
    if (held === 0 || this.lease.note(names) !== held || !(await leader.turn(names))) this.leader = undefined;
  }

  /** A batch of stores into a bucket: nobody else sees an object before it is whole. */
  async #put(folder: string, tenant: string, late: LateStores): Promise<void> {
    if (!this.#world.storing) return;
    const { random } = this.#world;
    const reserved = await this.#reserve(tenant, 1 + Math.floor(random() * 4));
    const shelf = this.#world.shelves.get(folder) as Shelf;
    const stored: Uint8Array[] = [];
    const unknown: Uint8Array[] = [];
    for (let i = 0; i < reserved; i++) {
      const key = keyOf(Math.floor(random() * 60));
      const text = keyHex(key);
      try {
        await this.#world.request(this, () => shelf.blocks.has(text) || shelf.blocks.set(text, key));
        stored.push(key); // or found: it makes no difference to the sum
      } catch {
        unknown.push(key);
      }
    }
    this.writing--;
    this.storedBlocks += stored.length;
    const [known, keys] = [reserved - unknown.length, packKeys(stored, KEY_BYTES)];
    this.member.settle(tenant, known, FILE_BYTES, folder, keys);
    for (const key of unknown) late.add(key);
    if (stored.length > 0 && random() < 0.3) this.member.tell(RecordKind.USED, folder, keys);
  }

  /** Moves a block to the quarantine of a bucket, as `S3Backend` does it: with room for the copy. */
  async #quarantine(folder: string, tenant: string): Promise<void> {
    const { random } = this.#world;
    const shelf = this.#world.shelves.get(folder) as Shelf;
    const text = [...shelf.blocks.keys()][0];
    if (!this.#world.storing || random() > 0.05 || text === undefined || shelf.quarantined >= 3) return;
    const key = shelf.blocks.get(text) as Uint8Array;
    if ((await this.member.reserve(tenant, 1, FILE_BYTES, AbortSignal.abort())) === 0) return;
    try {
      await this.#world.request(this, () => {
        if (shelf.blocks.has(text)) shelf.quarantined++;
      });
      await this.#world.request(this, () => shelf.blocks.delete(text));
    } finally {
      this.member.tell(RecordKind.GONE, folder, packKeys([key]));
      // the copy may come late
      for (const until = this.#world.nowMs + this.#world.pace.lateMs; this.#world.nowMs < until; ) {
        await this.#world.step(this, () => {});
      }
      this.member.settle(tenant, 1, FILE_BYTES, folder, packKeys([], KEY_BYTES), 1);
    }
  }

  #lateStores(folder: string, tenant: string): LateStores {
    const { blocks } = this.#world.shelves.get(folder) as Shelf;
    return new LateStores(KEY_BYTES, {
      lateMs: this.#world.pace.lateMs,
      monotonicMs: () => this.#world.nowMs,
      exists: (key) => this.#world.step(this, () => blocks.has(keyHex(key))),
      settle: (keys) => this.member.settle(tenant, 1, FILE_BYTES, folder, keys),
    });
  }

  /** Waits a little for room. */
  async #reserve(tenant: string, count: number): Promise<number> {
    const giveUp = new AbortController();
    this.writing++;
    const room = this.member.reserve(tenant, count, FILE_BYTES, giveUp.signal);
    for (let i = 0; i < 30; i++) await this.#world.step(this, () => {});
    giveUp.abort();
    return room;
  }

  /** A batch of stores: each block is a temporary file first, then has its name, or fails. */
  async #store(folder: string, tenant: string): Promise<void> {
    if (!this.#world.storing) return;
    const { random } = this.#world;
    const reserved = await this.#reserve(tenant, 1 + Math.floor(random() * 4));
    const shelf = this.#world.shelves.get(folder) as Shelf;
    const stored: Uint8Array[] = [];
    for (let i = 0; i < reserved; i++) {
      const key = keyOf(Math.floor(random() * 60));
      const [text, unfinished] = [keyHex(key), `${this.writer}-${i}`];
      if (await this.#world.step(this, () => shelf.blocks.has(text))) continue; // PRESENT
      await this.#world.step(this, () => shelf.unfinished.set(unfinished, this));
      const outcome = await this.#world.step(this, () => {
        shelf.unfinished.delete(unfinished);
        if (random() < 0.1) return Outcome.FAILED;
        if (shelf.blocks.has(text) && random() < 0.5) return Outcome.PRESENT; // link; rename replaces
        shelf.blocks.set(text, key);
        return Outcome.STORED;
      });
      if (outcome === Outcome.STORED) stored.push(key);
    }
    this.writing--;
    this.storedBlocks += stored.length;
    this.member.settle(tenant, reserved, FILE_BYTES, folder, packKeys(stored, KEY_BYTES));
    if (stored.length > 0 && random() < 0.3) this.member.tell(RecordKind.USED, folder, packKeys(stored));
    if (stored.length > 0 && random() < 0.1) this.member.tell(RecordKind.GONE, folder, packKeys(stored));
  }
}

function keyOf(id: number): Uint8Array {
  const key = Buffer.alloc(KEY_BYTES);
  key.writeUInt32BE(id, 0);
  return key;
}

/** `hasEnded` of the model: of a process on another host nobody knows. */
function endedOf(world: World, writer: string): boolean | undefined {
  const process = world.processes.find((candidate) => candidate.writer === writer);
  if (process === undefined) return true;
  return process.local ? process.crashed : undefined;
}

function filesOf(world: World, process: Process): CapacityFiles {
  const { files } = world;
  return {
    list: () => world.step(process, () => [...files.keys()]),
    read: (name, offset, bytesMax) => world.step(process, () => files.get(name)?.slice(offset, offset + bytesMax)),
    replace: (name, bytes) => world.step(process, () => void files.set(name, bytes.slice())),
    create: (name, bytes) =>
      world.step(process, () => {
        if (files.has(name)) return false;
        files.set(name, bytes.slice());
        return true;
      }),
    async write(name, offset, bytes) {
      // torn: the second half comes later
      for (const [from, to] of [
        [0, bytes.length >> 1],
        [bytes.length >> 1, bytes.length],
      ] as const) {
        await world.step(process, () => {
          const old = files.get(name) ?? new Uint8Array(0);
          const whole = new Uint8Array(Math.max(old.length, offset + to));
          whole.set(old);
          whole.set(bytes.subarray(from, to), offset + from);
          files.set(name, whole);
        });
      }
    },
    remove: (name) => world.step(process, () => void files.delete(name)),
  };
}

/** Listed in two pages, between which the others go on. */
function objectsOf(world: World, process: Process): CapacityObjects {
  const { files } = world;
  const page = (after: string, countMax: number): Promise<{ name: string; bytes: number }[]> =>
    world.step(process, () => {
      const names = [...files.keys()].filter((name) => name > after).sort();
      return names.slice(0, countMax).map((name) => ({ name, bytes: files.get(name)?.length ?? 0 }));
    });
  return {
    async list() {
      const first = await page("", files.size >> 1);
      return [...first, ...(await page(first.at(-1)?.name ?? "", Number.POSITIVE_INFINITY))];
    },
    get: (name, offset, bytesMax) => world.step(process, () => files.get(name)?.slice(offset, offset + bytesMax)),
    put: (name, bytes) => world.request(process, () => void files.set(name, bytes.slice())),
    create: (name, bytes) =>
      world.request(process, () => {
        if (files.has(name)) return false;
        files.set(name, bytes.slice());
        return true;
      }),
    remove: (name) => world.request(process, () => void files.delete(name)),
  };
}

function blocksOf(world: World, process: Process): BlockRoot {
  const folders = [...world.shelves].map(([name, shelf]) => folderOf(world, process, name, shelf));
  return { folders: () => world.step(process, () => folders) };
}

function folderOf(world: World, process: Process, name: string, shelf: Shelf): BlockFolder {
  const leafOf = (key: Uint8Array): string => String((key[3] as number) % LEAVES);
  const each = async (keys: KeyBatch, answer: (text: string) => number): Promise<Uint8Array> => {
    const answers = new Uint8Array(keys.count);
    for (let i = 0; i < keys.count; i++) {
      answers[i] = await world.step(process, () => answer(keyHex(keyAt(keys, i))));
    }
    return answers;
  };
  const list = (leaf: string): Promise<FolderBlocks> =>
    world.step(process, () => {
      const keys = [...shelf.blocks.values()].filter((key) => leafOf(key) === leaf);
      const filled = (value: number): Float64Array => new Float64Array(keys.length).fill(value);
      const [bytes, modifiedAtMs] = [filled(FILE_BYTES), filled(world.nowMs)];
      return { keys: packKeys(keys, KEY_BYTES), bytes, modifiedAtMs, others: { bytes: 0, files: 0 } };
    });
  return {
    name,
    tenant: shelf.tenant,
    keyBytes: KEY_BYTES,
    fileBytes: FILE_BYTES,
    async *leaves() {
      for (let i = 0; i < LEAVES; i++) yield { list: () => list(String(i)) };
    },
    besides: (isMember) =>
      world.step(process, () => {
        let amount = { bytes: shelf.quarantined * FILE_BYTES, files: shelf.quarantined };
        for (const [unfinished, writer] of shelf.unfinished) {
          if (endedOf(world, writer.writer) === true) shelf.unfinished.delete(unfinished);
          else if (!isMember(writer.writer)) amount = plus(amount, { bytes: FILE_BYTES, files: 1 });
        }
        return amount;
      }),
    exists: (keys) => each(keys, (text) => (shelf.blocks.has(text) ? 1 : 0)),
    remove: (keys) =>
      world.kind === "files"
        ? each(keys, (text) => (shelf.blocks.delete(text) ? Outcome.REMOVED : Outcome.MISS))
        : removeObjects(world, process, shelf, keys),
    async close() {},
  };
}

/** A bucket does not say whether there was one. */
async function removeObjects(world: World, process: Process, shelf: Shelf, keys: KeyBatch): Promise<Uint8Array> {
  const outcomes = new Uint8Array(keys.count).fill(Outcome.REMOVED);
  for (let i = 0; i < keys.count; i++) {
    const text = keyHex(keyAt(keys, i));
    try {
      await world.request(process, () => shelf.blocks.delete(text));
    } catch {
      outcomes[i] = Outcome.FAILED;
    }
  }
  return outcomes;
}

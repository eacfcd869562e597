import { setImmediate } from "node:timers/promises";
import type { PolicyFactory } from "../eviction/policy.js";
import { type KeyBatch, selectKeys } from "../keys.js";
import { Outcome } from "../outcomes.js";
import type { PrefixIndex } from "../prefix-index/prefix-index.js";
import type { Logger } from "../runtime.js";
import { type Amount, atLeastNothing, filesOf, isNothing, lesser, minus, NOTHING, plus } from "./amount.js";
import { type BlockFolder, type BlockLeaf, type BlockRoot, CatalogFolder, type FolderBlocks } from "./catalog.js";
import { encodeDocument } from "./documents.js";
import type { CapacityFiles } from "./files.js";
import { Ledger, type MemberRecord } from "./ledger.js";
import { encodeRecords, type LogRecord, LogWriter, RecordKind } from "./log.js";
import { MemberReader } from "./member-reader.js";
import { evictionsName, grantName } from "./names.js";
import type { CapacityPace } from "./pace.js";
import { type Need, needsOf, RESERVE_SHARE, share } from "./share.js";
import { sweep } from "./sweep.js";

/** Least pause between recounts that look for what is unaccounted for: so many times as long as the last one took. */
const RECOUNT_PAUSE_TIMES = 10;
/** A turn does so much of a recount before it lets others run. */
const SLICE_MS = 8;
/** Folders that are listed at once. */
const LISTINGS_AT_ONCE = 16;
/** So long after someone asked for room the leader looks more often. */
const ASKED_FOR_MS = 1000;

/** Those in the leader's own process who keep an index of the folder. */
interface EvictionHooks {
  /** Blocks of the folder are about to be removed. */
  evicting(folder: string): void;
  /** It is done; `keys` are not there any more. Called once for each `evicting`. */
  evicted(folder: string, keys: KeyBatch): void;
}

/** Where the leader's indexes are kept, so that the next one knows how blocks were used. */
export interface LeaderIndexes {
  /** The index of a folder of blocks, as the last leader has left it, or an empty one. */
  open(folder: string, keyBytes: number): Promise<PrefixIndex>;
  /** The epoch is over. */
  close(): Promise<void>;
}

export interface LeaderOptions {
  readonly files: CapacityFiles;
  readonly root: BlockRoot;
  readonly indexes: LeaderIndexes;
  readonly policy: PolicyFactory;
  readonly capacity: Amount;
  /** Bytes a tenant. */
  readonly quotas: ReadonlyMap<string, number>;
  readonly pace: CapacityPace;
  readonly logger: Logger;
  readonly hooks: EvictionHooks;
  readonly epoch: number;
  /** Whether this epoch is current still: asks the storage. */
  isCurrent(): Promise<boolean>;
  warn(thrown: unknown): void;
  nowMs(): number;
  monotonicMs(): number;
  /** Whether a writer has ended; undefined where that cannot be known. */
  hasEnded(writer: string): boolean | undefined;
}

/** What the leader has counted. */
export interface RootCount {
  /** Blocks. */
  readonly counted: Amount;
  readonly besides: Amount;
  readonly outstanding: Amount;
  readonly unaccounted: Amount;
  /** Everything has been counted once. */
  readonly ready: boolean;
}

/** One epoch of leading: counts what is there, deals out room and evicts. All of it in one line of turns, so that no two steps overlap. */
export class Leader {
  readonly #options: LeaderOptions;
  readonly #ledger: Ledger = new Ledger();
  readonly #reader: MemberReader;
  readonly #evictions: LogWriter;
  readonly #catalog: Map<string, CatalogFolder> = new Map();
  #recounts = 0;
  #recount: AsyncGenerator<void> | undefined;
  #ready = false;
  #recountEndedAtMs = 0;
  #recountTookMs = 0;
  #askedAtMs = Number.NEGATIVE_INFINITY;
  #sweptAtMs = Number.NEGATIVE_INFINITY;
  #gone: { readonly entry: CatalogFolder; readonly keys: KeyBatch }[] = [];
  /** Blocks evicted. */
  evictedBlocks = 0;

  constructor(options: LeaderOptions) {
    this.#options = options;
    this.#evictions = new LogWriter(options.files, (file) => evictionsName(options.epoch, file));
    this.#reader = new MemberReader({
      ...options,
      ledger: this.#ledger,
      take: (record) => this.#take(record),
      recall: (record) => this.#recall(record),
      onLate: () => this.#beginAnew(),
    });
  }

  get count(): RootCount {
    const { besides } = this.#ledger;
    const unaccounted = this.#ledger.unaccounted();
    return {
      counted: this.#counted(),
      besides,
      outstanding: this.#ledger.outstanding(),
      unaccounted,
      ready: this.#ready,
    };
  }

  /** Whether there is work that should not wait for the next turn's time. */
  get busy(): boolean {
    return this.#recount !== undefined;
  }

  /** Someone has asked for room lately. */
  get wasAsked(): boolean {
    return this.#options.monotonicMs() - this.#askedAtMs < ASKED_FOR_MS;
  }

  /** One turn; false when another leads. */
  async turn(names: readonly string[]): Promise<boolean> {
    await this.#reader.readAll(names);
    await this.#checkGone();
    await this.#runRecount();
    if (this.#ready && !this.#ledger.uncertain && !(await this.#makeRoom())) return false;
    await this.#writeGrants();
    const now = this.#options.monotonicMs();
    if (this.#ready && now - this.#sweptAtMs > this.#options.pace.sweepEveryMs) {
      this.#sweptAtMs = now;
      await sweep(names, { ...this.#options, ledger: this.#ledger });
    }
    return true;
  }

  /** A server was heard of that has stored what no recount may have seen: nothing is granted before one has. */
  #beginAnew(): void {
    this.#recount = undefined;
    this.#ready = false;
  }

  #counted(tenant?: string): Amount {
    let sum = NOTHING;
    for (const entry of this.#catalog.values()) {
      if (tenant === undefined || entry.source.tenant === tenant) sum = plus(sum, entry.counted);
    }
    return sum;
  }

  /** What is left of the capacity; may be below nothing. */
  #free(): Amount {
    return minus(this.#options.capacity, this.#ledger.used(this.#counted()));
  }

  /** Bytes that a tenant may still get. */
  #roomOf(tenant: string): number {
    const quota = this.#options.quotas.get(tenant);
    if (quota === undefined) return Number.POSITIVE_INFINITY;
    const lost = this.#ledger.unaccounted(tenant).bytes;
    return quota - this.#counted(tenant).bytes - this.#ledger.outstanding(tenant).bytes - lost;
  }

  /** Takes in what a server's log says. */
  async #take(record: LogRecord): Promise<{ tenant: string; stored: Amount }> {
    const entry = this.#catalog.get(record.folder) ?? (await this.#discover(record.folder));
    const { kind, keys, fileBytes } = record;
    if (entry === undefined || entry.source.keyBytes !== keys.stride) return { tenant: "", stored: NOTHING };
    const { tenant } = entry.source;
    if (kind === RecordKind.GONE) this.#gone.push({ entry, keys });
    else entry.apply(record, this.#recounts);
    return { tenant, stored: kind === RecordKind.STORED ? filesOf(keys.count, fileBytes) : NOTHING };
  }

  async #recall(record: LogRecord): Promise<void> {
    if (this.#recounts > 0) return; // blocks that are counted must not come into the index unseen
    const entry = this.#catalog.get(record.folder) ?? (await this.#discover(record.folder));
    entry?.recall(record);
  }

  async #discover(name: string): Promise<CatalogFolder | undefined> {
    for (const source of await this.#options.root.folders()) {
      if (this.#catalog.has(source.name)) continue;
      const { policy, capacity, nowMs } = this.#options;
      const index = await this.#options.indexes.open(source.name, source.keyBytes);
      this.#catalog.set(source.name, new CatalogFolder(source, index, policy, capacity, nowMs));
    }
    return this.#catalog.get(name);
  }

  /** Blocks that were said to be gone. They may have been moved to a quarantine: what they took counts until the next recount. */
  async #checkGone(): Promise<void> {
    for (const { entry, keys } of this.#gone.splice(0)) {
      const there = await entry.source.exists(keys);
      this.#ledger.lose(entry.source.tenant, entry.forget(keys, there));
    }
  }

  async #runRecount(): Promise<void> {
    const { monotonicMs } = this.#options;
    const beganAtMs = monotonicMs();
    if (this.#recount === undefined && this.#recountIsDue(beganAtMs))
      this.#recount = this.#recountAll(++this.#recounts);
    while (this.#recount !== undefined && monotonicMs() - beganAtMs < SLICE_MS) {
      try {
        if ((await this.#recount.next()).done) this.#recount = undefined;
      } catch (thrown) {
        this.#recount = undefined;
        this.#recountEndedAtMs = monotonicMs();
        throw thrown;
      }
    }
  }

  #recountIsDue(now: number): boolean {
    const { recountEveryMs, recountPauseMs } = this.#options.pace;
    const since = now - this.#recountEndedAtMs;
    if (this.#recounts === 0) return true;
    if (since < recountPauseMs / 10) return false; // after a failure too
    if (!this.#ready) return true;
    for (const member of this.#ledger.members.values()) if (member.ended) return true;
    const pause = Math.max(recountPauseMs, RECOUNT_PAUSE_TIMES * this.#recountTookMs);
    return since > recountEveryMs || (since > pause && !isNothing(this.#ledger.unaccounted()));
  }

  async *#recountAll(recount: number): AsyncGenerator<void> {
    const beganAtMs = this.#options.monotonicMs();
    const ended = this.#ledger.beginRecount();
    await this.#discover("");
    for (const entry of this.#catalog.values()) entry.beginRecount();
    let besides = NOTHING;
    for (const entry of this.#catalog.values()) {
      for await (const parts of listings(entry.source)) {
        // no turn between a listing and this: a block that was evicted meanwhile would be counted again
        for (const blocks of parts) {
          besides = plus(besides, blocks.others);
          entry.list(blocks, recount);
          await setImmediate(); // what else the process does goes on
        }
        yield;
      }
      for (const _ of entry.takeFound(recount)) yield;
      for (const _ of entry.dropUnseen(recount)) yield;
      // last: what is moved to the quarantine meanwhile is counted at one of both places
      besides = plus(besides, await entry.source.besides((writer) => this.#isMember(writer)));
    }
    this.#ledger.endRecount(besides, ended);
    this.#sweptAtMs = Number.NEGATIVE_INFINITY; // their files can go
    this.#ready = true;
    this.#recountEndedAtMs = this.#options.monotonicMs();
    this.#recountTookMs = this.#recountEndedAtMs - beganAtMs;
  }

  /** Whether what a writer has not finished is covered by the room that its process holds. Names of one process differ in their last part only. */
  #isMember(writer: string): boolean {
    const processOf = (name: string): string => name.slice(0, name.lastIndexOf("-"));
    for (const { writer: member, ended } of this.#ledger.members.values()) {
      if (!ended && processOf(member) === processOf(writer)) return true;
    }
    return false;
  }

  /** Evicts for those who ask, and grants. False when another leads. */
  async #makeRoom(): Promise<boolean> {
    const needs = needsOf(this.#ledger.members.values());
    const { capacity, quotas, monotonicMs, pace } = this.#options;
    if (needs.length > 0) this.#askedAtMs = monotonicMs();
    const endsAtMs = monotonicMs() + pace.evictingMs;
    for (const [tenant, quota] of quotas) {
      const asked = Math.min(quota, sumOf(needs, tenant).bytes);
      if (!(await this.#evict(() => ({ bytes: asked - this.#roomOf(tenant), files: 0 }), endsAtMs, tenant)))
        return false;
    }
    const asked = lesser(this.#allowed(needs), capacity);
    const reserve = { bytes: capacity.bytes * RESERVE_SHARE, files: Math.floor(capacity.files * RESERVE_SHARE) };
    const wanted = plus(asked, lesser(asked, reserve));
    if (!(await this.#evict(() => minus(wanted, this.#free()), endsAtMs))) return false;
    const free = atLeastNothing(this.#free());
    for (const { member, tenant, amount } of share(needs, free, (of) => this.#roomOf(of))) member.grant(tenant, amount);
    return true;
  }

  /** What is asked for and no quota forbids. */
  #allowed(needs: readonly Need[]): Amount {
    let sum = NOTHING;
    for (const tenant of new Set(needs.map((need) => need.tenant))) {
      const asked = sumOf(needs, tenant);
      const bytes = Math.min(asked.bytes, Math.max(0, this.#roomOf(tenant)));
      sum = plus(sum, { bytes, files: bytes === 0 ? 0 : asked.files });
    }
    return sum;
  }

  /** Removes the blocks least worth keeping until nothing is missing any more, or time is over. */
  async #evict(missing: () => Amount, endsAtMs: number, tenant?: string): Promise<boolean> {
    for (let wanted = missing(); wanted.bytes > 0 || wanted.files > 0; wanted = missing()) {
      const entry = this.#coldest(tenant);
      if (entry === undefined) return true;
      if (!(await this.#options.isCurrent())) return false;
      if (!(await this.#evictFrom(entry, wanted)) || this.#options.monotonicMs() > endsAtMs) return true;
    }
    return true;
  }

  /** The folder whose next victim was used longest ago. */
  #coldest(tenant: string | undefined): CatalogFolder | undefined {
    let coldest: CatalogFolder | undefined;
    let oldestMs = Number.POSITIVE_INFINITY;
    for (const entry of this.#catalog.values()) {
      if (entry.size === 0 || (tenant !== undefined && entry.source.tenant !== tenant)) continue;
      const usedAtMs = entry.victimUsedAtMs(this.#options.nowMs());
      if (usedAtMs < oldestMs) [coldest, oldestMs] = [entry, usedAtMs];
    }
    return coldest;
  }

  /** Whether anything has gone. */
  async #evictFrom(entry: CatalogFolder, wanted: Amount): Promise<boolean> {
    const { hooks, nowMs, warn, pace } = this.#options;
    const victims = entry.takeVictims(wanted, pace.evictKeysMax, nowMs());
    if (victims.keys.count === 0) return false;
    hooks.evicting(entry.source.name);
    let outcomes: Uint8Array = new Uint8Array(victims.keys.count).fill(Outcome.FAILED);
    try {
      outcomes = await entry.source.remove(victims.keys);
    } catch (thrown) {
      warn(thrown);
    }
    const { removed, missing } = entry.evicted(victims, outcomes, nowMs(), this.#recounts);
    this.#ledger.lose(entry.source.tenant, missing);
    const gone = [...outcomes.keys()].filter((i) => outcomes[i] !== Outcome.FAILED);
    const keys = selectKeys(victims.keys, gone);
    this.evictedBlocks += removed.files;
    hooks.evicted(entry.source.name, keys);
    if (keys.count === 0) return false;
    const record = { kind: RecordKind.EVICTED, folder: entry.source.name, keys, fileBytes: 0, atMs: nowMs() };
    await this.#evictions.append(encodeRecords(record)).catch(warn);
    return true;
  }

  async #writeGrants(): Promise<void> {
    for (const member of this.#ledger.members.values()) {
      if (member.grantDirty) await this.#writeGrant(member);
    }
  }

  async #writeGrant(member: MemberRecord): Promise<void> {
    const grant = { read: member.position, accounts: member.grants };
    await this.#options.files.replace(grantName(member.writer, this.#options.epoch), encodeDocument(grant));
    member.grantDirty = false;
  }
}

/** What is in a folder, several parts at a time. */
async function* listings(source: BlockFolder): AsyncGenerator<FolderBlocks[]> {
  const leaves: BlockLeaf[] = [];
  const listed = (): Promise<FolderBlocks[]> => Promise.all(leaves.splice(0).map((leaf) => leaf.list()));
  for await (const leaf of source.leaves()) {
    leaves.push(leaf);
    if (leaves.length === LISTINGS_AT_ONCE) yield await listed();
  }
  yield await listed();
}

function sumOf(needs: readonly Need[], tenant: string): Amount {
  return needs.reduce((sum, need) => (need.tenant === tenant ? plus(sum, need.amount) : sum), NOTHING);
}

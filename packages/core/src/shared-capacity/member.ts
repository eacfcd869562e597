import type { KeyBatch } from "../keys.js";
import type { Logger } from "../runtime.js";
import { Account } from "./account.js";
import { type Amount, exceeds, filesOf, greater, NOTHING } from "./amount.js";
import { DOCUMENT_BYTES_MAX, decodeGrant, encodeDocument, type Grant, type MemberState } from "./documents.js";
import type { CapacityFiles } from "./files.js";
import type { Lease } from "./lease.js";
import { encodeRecords, LogWriter, RecordKind } from "./log.js";
import { grantName, logName, stateName } from "./names.js";
import type { CapacityPace } from "./pace.js";
import { AHEAD_SHARE } from "./share.js";

/** Uses are told earlier when there are so many; and more than the second number are forgotten, half of it where only an order is told. */
const USES_REPORT_BYTES: number = 1 << 18;
const USES_BYTES_MAX: number = 1 << 22;

export interface MemberOptions {
  readonly files: CapacityFiles;
  readonly lease: Lease;
  readonly writer: string;
  readonly pace: CapacityPace;
  readonly capacityBytes: number;
  /** Bytes a tenant. */
  readonly quotas: ReadonlyMap<string, number>;
  readonly logger: Logger;
  /** Wall clock, ms. */
  nowMs(): number;
  monotonicMs(): number;
  /** Something went wrong that may pass. */
  warn(thrown: unknown): void;
  /** Called when there is something to do before the next turn. */
  wake(): void;
}

interface Waiter {
  readonly account: Account;
  readonly fileBytes: number;
  missing: number;
  got: number;
  done(): void;
}

interface Report {
  readonly bytes: Uint8Array;
  readonly account?: Account;
  readonly stored: Amount;
}

/** One process's part as a server: it stores only into room that it has accepted from the leader, and tells what it stored and used. */
export class Member {
  readonly #options: MemberOptions;
  readonly #accounts: Map<string, Account> = new Map();
  readonly #log: LogWriter;
  readonly #waiters: Set<Waiter> = new Set();
  #reports: Report[] = [];
  #usesBytes = 0;
  #storesSinceMs = Number.POSITIVE_INFINITY;
  #usesSinceMs = Number.POSITIVE_INFINITY;
  #beat = 0;
  #closed = false;
  #dirty = true;
  #shown: { readonly wallMs: number; readonly monotonicMs: number } | undefined;
  #inVainUntilMs = 0;
  /** Reports of uses that were dropped because too many came. */
  usesForgotten = 0;

  constructor(options: MemberOptions) {
    this.#options = options;
    this.#log = new LogWriter(options.files, (file) => logName(options.writer, file));
  }

  /** Stores wait for room. */
  get waits(): boolean {
    return this.#waiters.size > 0;
  }

  /** Room for up to `count` files; waits a little if there is none. How many got room. The caller ends it with `settle`. */
  async reserve(tenant: string, count: number, fileBytes: number, signal?: AbortSignal): Promise<number> {
    const { roomWaitMs } = this.#options.pace;
    const account = this.#account(tenant);
    const got = this.#isVoid() ? 0 : account.reserve(count, fileBytes);
    const nowMs = this.#options.monotonicMs();
    if (got === count || this.#closed || signal?.aborted || nowMs < this.#inVainUntilMs) return got;
    return new Promise((resolve) => {
      const waiter: Waiter = { account, fileBytes, missing: count - got, got, done: () => {} };
      const amount = filesOf(waiter.missing, fileBytes);
      const end = (inVain: boolean): void => {
        if (!this.#waiters.delete(waiter)) return;
        clearTimeout(timer);
        signal?.removeEventListener("abort", give);
        account.stopWaiting(filesOf(waiter.missing, fileBytes));
        if (inVain && waiter.got === got) this.#inVainUntilMs = this.#options.monotonicMs() + roomWaitMs;
        resolve(waiter.got);
      };
      const give = (): void => end(false);
      waiter.done = give;
      const timer = setTimeout(() => end(true), roomWaitMs);
      signal?.addEventListener("abort", give);
      account.wait(amount);
      this.#waiters.add(waiter);
      this.#dirty = true;
      this.#options.wake();
    });
  }

  /** No room can come now: nobody waits for it any more. */
  giveUpWaiting(): void {
    for (const waiter of [...this.#waiters]) waiter.done();
  }

  /** Ends a reservation. `keys`: those of its blocks that are there now, in order; `lost`: files of which nobody knows whether they are. */
  settle(tenant: string, reserved: number, fileBytes: number, folder: string, keys: KeyBatch, lost: number = 0): void {
    const account = this.#account(tenant);
    account.settle(reserved, keys.count + lost, fileBytes);
    const nowMs = this.#options.monotonicMs();
    if (keys.count > 0 || lost > 0) {
      const record = { kind: RecordKind.STORED, folder, keys, fileBytes, atMs: this.#options.nowMs() };
      const bytes = keys.count > 0 ? encodeRecords(record) : new Uint8Array(0);
      this.#reports.push({ bytes, account, stored: filesOf(keys.count + lost, fileBytes) });
      this.#storesSinceMs = Math.min(this.#storesSinceMs, nowMs);
    }
    if (keys.count + lost < reserved) this.#serveWaiters();
  }

  /** Tells how blocks were used, and in which order requests have them; GONE: that they may not be there any more. */
  tell(kind: RecordKind, folder: string, keys: KeyBatch): void {
    if (keys.count === 0) return;
    const bytes = encodeRecords({ kind, folder, keys, fileBytes: 0, atMs: this.#options.nowMs() });
    const bytesMax = kind === RecordKind.OBSERVED ? USES_BYTES_MAX / 2 : USES_BYTES_MAX;
    if (this.#usesBytes + bytes.length > bytesMax) {
      this.usesForgotten += keys.count;
      return;
    }
    this.#usesBytes += bytes.length;
    this.#reports.push({ bytes, stored: NOTHING });
    this.#usesSinceMs = Math.min(this.#usesSinceMs, this.#options.monotonicMs());
  }

  /** One turn: tells what is due, takes what the leader grants. */
  async turn(epoch: number): Promise<void> {
    if (this.#isVoid()) await this.#forfeit();
    if (this.#isLogDue()) await this.#writeLog().catch((thrown: unknown) => this.#options.warn(thrown));
    const grant = epoch === 0 ? undefined : await this.#readGrant(epoch);
    for (const account of this.#accounts.values()) {
      if (account.review(this.#options.monotonicMs(), this.#aheadBytesMax(account))) this.#dirty = true;
    }
    if (grant !== undefined) {
      await this.#log.discard(grant.read.file);
      if (await this.#accept(grant, epoch)) return;
    }
    if (this.#dirty || this.#beatIsDue()) await this.#writeState(() => NOTHING);
  }

  /** Gives everything back. No store may be under way. */
  async close(): Promise<void> {
    this.#closed = true;
    this.giveUpWaiting();
    await this.#writeLog();
    for (const account of this.#accounts.values()) account.releaseAll();
    await this.#writeState(() => NOTHING);
  }

  #aheadBytesMax({ tenant }: Account): number {
    const { capacityBytes, quotas } = this.#options;
    return Math.min(capacityBytes, quotas.get(tenant) ?? capacityBytes) * AHEAD_SHARE;
  }

  #account(tenant: string): Account {
    let account = this.#accounts.get(tenant);
    if (account === undefined) {
      account = new Account(tenant, this.#options.pace, this.#options.monotonicMs());
      this.#accounts.set(tenant, account);
    }
    return account;
  }

  async #readGrant(epoch: number): Promise<Grant | undefined> {
    const bytes = await this.#options.files.read(grantName(this.#options.writer, epoch), 0, DOCUMENT_BYTES_MAX + 1);
    return bytes === undefined ? undefined : decodeGrant(bytes);
  }

  /** First everybody can read that the room is taken, then it is made sure that the epoch in which it was granted is not over, then it is used: a new
   * leader makes its epoch first and reads after that, so that one of the two sees the other. Whether the state was written. */
  async #accept(grant: Grant, epoch: number): Promise<boolean> {
    const raised = new Map<string, Amount>();
    for (const { tenant, granted } of grant.accounts) {
      if (exceeds(granted, this.#account(tenant).accepted)) raised.set(tenant, granted);
    }
    if (raised.size === 0) return false;
    await this.#writeState((account) => raised.get(account.tenant) ?? NOTHING);
    this.#dirty = true; // until it is sure, the next state says that it was not taken
    if (this.#options.lease.note(await this.#options.files.list()) !== epoch) return true;
    for (const [tenant, granted] of raised) this.#account(tenant).accept(granted);
    this.#inVainUntilMs = 0;
    this.#serveWaiters();
    return true;
  }

  #serveWaiters(): void {
    for (const waiter of this.#waiters) {
      const got = waiter.account.reserve(waiter.missing, waiter.fileBytes);
      if (got === 0) continue;
      waiter.account.stopWaiting(filesOf(got, waiter.fileBytes));
      waiter.missing -= got;
      waiter.got += got;
      if (waiter.missing === 0) waiter.done();
    }
  }

  #isLogDue(): boolean {
    const { storesReportMs, usesReportMs } = this.#options.pace;
    const now = this.#options.monotonicMs();
    if ((this.waits && this.#storesSinceMs <= now) || this.#usesBytes > USES_REPORT_BYTES) return true;
    return now - this.#storesSinceMs >= storesReportMs || now - this.#usesSinceMs >= usesReportMs;
  }

  async #writeLog(): Promise<void> {
    const reports = this.#reports;
    if (reports.length === 0) return;
    const bytes = Buffer.concat(reports.map((report) => report.bytes));
    const count = reports.length;
    const usesBytes = this.#usesBytes;
    const now = this.#options.monotonicMs();
    if (bytes.length > 0) await this.#log.append(bytes); // what comes meanwhile is behind `count`
    this.#reports = reports.slice(count);
    this.#usesBytes -= usesBytes;
    const rest = this.#reports.length > 0 ? now : Number.POSITIVE_INFINITY;
    this.#storesSinceMs = rest;
    this.#usesSinceMs = rest;
    for (const { account, stored } of reports.slice(0, count)) account?.report(stored);
    this.#dirty = true;
  }

  #beatIsDue(): boolean {
    return (
      this.#shown === undefined || this.#options.monotonicMs() - this.#shown.monotonicMs >= this.#options.pace.beatMs
    );
  }

  /** @param raised what is added to the accepted room of an account in what is written. */
  async #writeState(raised: (account: Account) => Amount): Promise<void> {
    const shown = { wallMs: this.#options.nowMs(), monotonicMs: this.#options.monotonicMs() };
    const state: MemberState = {
      beat: ++this.#beat,
      closed: this.#closed,
      capacityBytes: this.#options.capacityBytes,
      log: this.#log.position,
      accounts: [...this.#accounts.values()].map((account) =>
        account.state(greater(account.accepted, raised(account)), this.#aheadBytesMax(account)),
      ),
    };
    this.#dirty = false;
    try {
      await this.#options.files.replace(stateName(this.#options.writer), encodeDocument(state));
      this.#shown = shown;
    } catch (thrown) {
      this.#dirty = true;
      throw thrown;
    }
  }

  /** By both clocks: one may stand still while the machine sleeps. */
  #isVoid(): boolean {
    if (this.#shown === undefined) return false; // nothing was accepted yet
    const { nowMs, monotonicMs } = this.#options;
    const elapsed = Math.max(monotonicMs() - this.#shown.monotonicMs, nowMs() - this.#shown.wallMs);
    return elapsed > this.#options.pace.roomValidMs;
  }

  /** After a long silence others may have given this server up, and its room to someone else. */
  async #forfeit(): Promise<void> {
    this.#options.logger.warn({}, "this server stood still for long and gives up the room that it held");
    for (const account of this.#accounts.values()) account.releaseAll();
    await this.#writeState(() => NOTHING);
  }
}

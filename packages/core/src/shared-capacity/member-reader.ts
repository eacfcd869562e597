import type { Logger } from "../runtime.js";
import { type Amount, isNothing, NOTHING, plus } from "./amount.js";
import { DOCUMENT_BYTES_MAX, decodeState, type LogPosition, type MemberState } from "./documents.js";
import type { CapacityFiles } from "./files.js";
import { type Ledger, MemberRecord, storedBy } from "./ledger.js";
import { type LogRecord, readLog } from "./log.js";
import { logName, parseName, stateName } from "./names.js";
import type { CapacityPace } from "./pace.js";

export interface MemberReaderOptions {
  readonly files: CapacityFiles;
  readonly ledger: Ledger;
  readonly pace: CapacityPace;
  readonly logger: Logger;
  readonly capacity: Amount;
  monotonicMs(): number;
  hasEnded(writer: string): boolean | undefined;
  /** Takes in a record; what it says was stored, and for whom. */
  take(record: LogRecord): Promise<{ readonly tenant: string; readonly stored: Amount }>;
  /** Takes in what a record of the past tells of uses. */
  recall(record: LogRecord): Promise<void>;
  /** The first state that can be read of a server says that it has stored something. */
  onLate(): void;
}

/** Keeps the ledger's members as their files say. */
export class MemberReader {
  readonly #options: MemberReaderOptions;
  readonly #warned: Set<string> = new Set();

  constructor(options: MemberReaderOptions) {
    this.#options = options;
  }

  async readAll(names: readonly string[]): Promise<void> {
    const { files, ledger, monotonicMs } = this.#options;
    for (const name of names) {
      const parsed = parseName(name);
      if (parsed?.kind !== "state") continue;
      const bytes = await files.read(name, 0, DOCUMENT_BYTES_MAX + 1);
      if (bytes === undefined) continue;
      let member = ledger.members.get(parsed.writer);
      if (member === undefined) {
        const last = ledger.forgotten.get(parsed.writer);
        if (last !== undefined && Buffer.compare(last, bytes) === 0) continue;
        ledger.forgotten.delete(parsed.writer);
        member = new MemberRecord(parsed.writer, monotonicMs());
        ledger.members.set(parsed.writer, member);
      }
      if (!member.ended && Buffer.compare(bytes, member.raw) !== 0) await this.#read(member, bytes);
    }
    for (const member of ledger.members.values()) if (!member.ended) await this.#checkLife(member);
  }

  async #read(member: MemberRecord, bytes: Uint8Array): Promise<void> {
    const { monotonicMs, logger, capacity } = this.#options;
    member.raw = bytes;
    member.changedAtMs = monotonicMs();
    const state = decodeState(bytes);
    if (state === undefined) {
      this.#warnOnce(`damaged ${member.writer}`, () =>
        logger.warn(
          { file: stateName(member.writer) },
          "a server's file of the capacity is damaged; no room is granted until it has written it anew",
        ),
      );
      return;
    }
    if (state.capacityBytes !== capacity.bytes) {
      this.#warnOnce(`capacity ${member.writer}`, () =>
        logger.warn(
          { writer: member.writer, itsCapacityBytes: state.capacityBytes, capacityBytes: capacity.bytes },
          "a server has another capacity configured for the same root; the leader's own holds",
        ),
      );
    }
    await this.#adopt(member, state);
  }

  async #adopt(member: MemberRecord, state: MemberState): Promise<void> {
    const { ledger, logger } = this.#options;
    if (member.state === undefined) {
      member.adopt(state, state.log, new Map());
      await this.#recall(member, state);
      if (!isNothing(storedBy(state))) this.#options.onLate(); // a recount from now on finds it
      return;
    }
    const { reported, damaged } = await this.#readLog(member, state);
    const missing = member.adopt(state, state.log, reported);
    if (damaged) {
      this.#warnOnce(`log ${member.writer}`, () =>
        logger.warn(
          { writer: member.writer },
          "a server's log of the capacity is damaged; a recount finds what it stored",
        ),
      );
    }
    for (const [tenant, amount] of missing) ledger.lose(tenant, amount);
    if (state.log.file !== member.grantedLogFile) {
      member.grantedLogFile = state.log.file;
      member.grantDirty = true; // so that it can remove what was read
    }
  }

  async #readLog(
    member: MemberRecord,
    state: MemberState,
  ): Promise<{ reported: Map<string, Amount>; damaged: boolean }> {
    const reported = new Map<string, Amount>();
    let from = member.position;
    for (;;) {
      const part = await readLog(this.#options.files, (file) => logName(member.writer, file), from, state.log);
      for (const record of part.records) {
        const { tenant, stored } = await this.#options.take(record);
        reported.set(tenant, plus(reported.get(tenant) ?? NOTHING, stored));
      }
      if (part.damaged) return { reported, damaged: true };
      if (!part.more) return { reported, damaged: false };
      from = part.position;
    }
  }

  /** Reads again what an earlier leader may have read, as far as it is there. */
  async #recall(member: MemberRecord, { log }: MemberState): Promise<void> {
    const nameOf = (file: number): string => logName(member.writer, file);
    let from: LogPosition = { file: Math.max(0, log.file - 1), offset: 0 };
    for (;;) {
      const part = await readLog(this.#options.files, nameOf, from, log);
      for (const record of part.records) await this.#options.recall(record);
      if (part.damaged && from.file < log.file) from = { file: log.file, offset: 0 };
      else if (part.damaged || !part.more) return;
      else from = part.position;
    }
  }

  /** A server that has ended leaves its last words in its log. */
  async #checkLife(member: MemberRecord): Promise<void> {
    const { files, ledger } = this.#options;
    const { state } = member;
    if (state?.closed && isNothing(member.outstanding())) {
      ledger.forget(member); // its files are swept up
      return;
    }
    if (!this.#hasEnded(member)) return;
    member.ended = true;
    if (state === undefined) {
      member.state = { beat: 0, closed: true, capacityBytes: 0, log: member.position, accounts: [] };
      return;
    }
    const rest = await readLog(files, (file) => logName(member.writer, file), member.position);
    for (const record of rest.records) await this.#options.take(record);
  }

  /** Whether it has ended, and nothing that it has begun can reach the storage any more. */
  #hasEnded(member: MemberRecord): boolean {
    const { hasEnded, monotonicMs, pace } = this.#options;
    const silentMs = monotonicMs() - member.changedAtMs;
    // it has gone in order, and may have left requests behind of which nobody hears
    if (member.state?.closed && pace.lateMs > 0) return silentMs > pace.lateMs;
    const known = hasEnded(member.writer);
    if (known === undefined) return silentMs > pace.endedAfterMs;
    if (!known) return false;
    member.endSeenAtMs ??= monotonicMs();
    return monotonicMs() - member.endSeenAtMs >= pace.lateMs;
  }

  #warnOnce(what: string, warn: () => void): void {
    if (this.#warned.has(what)) return;
    this.#warned.add(what);
    warn();
  }
}

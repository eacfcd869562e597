import { type Amount, atLeastNothing, greater, isNothing, minus, NOTHING, plus } from "./amount.js";
import type { LogPosition, MemberState } from "./documents.js";

/** What the leader knows of one server. */
export class MemberRecord {
  readonly writer: string;
  /** As it was read last; undefined while it could not be read: what the server holds is not known then. */
  state: MemberState | undefined;
  /** The file's bytes, and when they changed by the leader's clock. */
  raw: Uint8Array = new Uint8Array(0);
  changedAtMs: number;
  /** When its process was found to have ended. */
  endSeenAtMs: number | undefined;
  /** How far its log has been taken in. */
  position: LogPosition = { file: 0, offset: 0 };
  /** It has ended; what it held counts until a recount that began after that has found all it stored. */
  ended = false;
  grantDirty = false;
  /** Its log's last file when it was told last what was read. */
  grantedLogFile = 0;
  readonly #granted: Map<string, Amount> = new Map();

  constructor(writer: string, nowMs: number) {
    this.writer = writer;
    this.changedAtMs = nowMs;
  }

  /** Up to where the server may have accepted room. */
  granted(tenant: string): Amount {
    return this.#granted.get(tenant) ?? NOTHING;
  }

  grant(tenant: string, amount: Amount): void {
    this.#granted.set(tenant, plus(this.granted(tenant), amount));
    this.grantDirty = true;
  }

  get grants(): { readonly tenant: string; readonly granted: Amount }[] {
    return [...this.#granted].map(([tenant, granted]) => ({ tenant, granted }));
  }

  /** Takes over a state. What it says of stored files that the log did not tell of, for each tenant. */
  adopt(state: MemberState, position: LogPosition, reported: ReadonlyMap<string, Amount>): Map<string, Amount> {
    const before = this.state;
    const missing = new Map<string, Amount>();
    for (const { tenant, accepted, stored } of state.accounts) {
      this.#granted.set(tenant, greater(this.granted(tenant), accepted));
      const storedBefore = before?.accounts.find((account) => account.tenant === tenant)?.stored ?? NOTHING;
      const untold = atLeastNothing(minus(minus(stored, storedBefore), reported.get(tenant) ?? NOTHING));
      if (before !== undefined && !isNothing(untold)) missing.set(tenant, untold);
    }
    this.state = state;
    this.position = position;
    return missing;
  }

  /** Room that the server may hold and has not used, as far as is known: for one tenant, or for all. */
  outstanding(tenant?: string): Amount {
    let sum = NOTHING;
    for (const [name, granted] of this.#granted) {
      if (tenant !== undefined && name !== tenant) continue;
      const account = this.state?.accounts.find((candidate) => candidate.tenant === name);
      const used = account === undefined ? NOTHING : plus(account.stored, account.released);
      sum = plus(sum, atLeastNothing(minus(granted, used)));
    }
    return sum;
  }
}

export function storedBy(state: MemberState): Amount {
  return state.accounts.reduce((sum, { stored }) => plus(sum, stored), NOTHING);
}

/**
 * The leader's sum. Whatever is on storage is counted, or covered by room that is outstanding, or was counted and is unaccounted for until a
 * recount that began later has ended: so that the sum is never less than what is there.
 */
export class Ledger {
  readonly members: Map<string, MemberRecord> = new Map();
  /** Members that have ended and are counted no more, and the last bytes of their files: until those change they stay forgotten. */
  readonly forgotten: Map<string, Uint8Array> = new Map();
  /** Files that are no blocks: as the last recount found them. */
  besides: Amount = NOTHING;
  /** By tenant; since the recount under way has begun, and before. */
  #unaccounted: Map<string, Amount> = new Map();
  #unaccountedBefore: Map<string, Amount> = new Map();

  /** Files that were counted, or were to be, and of which nobody knows where they are: for one tenant, or for all. */
  unaccounted(tenant?: string): Amount {
    let sum = NOTHING;
    for (const amounts of [this.#unaccounted, this.#unaccountedBefore]) {
      for (const [name, amount] of amounts) if (tenant === undefined || name === tenant) sum = plus(sum, amount);
    }
    return sum;
  }

  lose(tenant: string, amount: Amount): void {
    if (!isNothing(amount)) this.#unaccounted.set(tenant, plus(this.#unaccounted.get(tenant) ?? NOTHING, amount));
  }

  /** Returns the members that have ended: `recounted` takes them. */
  beginRecount(): MemberRecord[] {
    for (const [tenant, amount] of this.#unaccounted) {
      this.#unaccountedBefore.set(tenant, plus(this.#unaccountedBefore.get(tenant) ?? NOTHING, amount));
    }
    this.#unaccounted = new Map();
    return [...this.members.values()].filter((member) => member.ended);
  }

  endRecount(besides: Amount, ended: readonly MemberRecord[]): void {
    this.besides = besides;
    this.#unaccountedBefore = new Map();
    for (const member of ended) this.forget(member);
  }

  forget(member: MemberRecord): void {
    this.members.delete(member.writer);
    this.forgotten.set(member.writer, member.raw);
  }

  outstanding(tenant?: string): Amount {
    let sum = NOTHING;
    for (const member of this.members.values()) sum = plus(sum, member.outstanding(tenant));
    return sum;
  }

  /** All that may be on storage, given what is counted. */
  used(counted: Amount): Amount {
    return plus(plus(counted, this.outstanding()), plus(this.besides, this.unaccounted()));
  }

  /** Whether nobody knows what some server holds. */
  get uncertain(): boolean {
    for (const member of this.members.values()) if (member.state === undefined) return true;
    return false;
  }
}

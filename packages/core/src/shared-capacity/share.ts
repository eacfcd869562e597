import { type Amount, exceeds, filesOf, filesThatFit, isNothing, minus } from "./amount.js";
import type { MemberRecord } from "./ledger.js";

/** At most a 32nd of the capacity, or of the tenant's quota, is held ahead by a server. */
export const AHEAD_SHARE: number = 1 / 32;
/** While servers store, up to a 64th of the capacity is kept free for those who ask next. */
export const RESERVE_SHARE: number = 1 / 64;
/** So much of a capacity a server alone may have evicted beyond what it stores: who must not evict leaves it free. */
export const KEPT_FREE_SHARE: number = AHEAD_SHARE + RESERVE_SHARE;

/** Room that a server asks for, for one tenant. */
export interface Need {
  readonly member: MemberRecord;
  readonly tenant: string;
  readonly amount: Amount;
}

/** What the members ask for beyond what they were granted. */
export function needsOf(members: Iterable<MemberRecord>): Need[] {
  const needs: Need[] = [];
  for (const member of members) {
    if (member.ended || member.state === undefined || member.state.closed) continue;
    for (const { tenant, asked } of member.state.accounts) {
      const amount = minus(asked, member.granted(tenant));
      if (amount.bytes > 0 && amount.files > 0) needs.push({ member, tenant, amount });
    }
  }
  return needs;
}

/** Deals out `free`: who holds least is served first, nobody gets more than an equal share of what is left but for one file, and only whole
 * files' room. `room`: what a tenant may still get. */
export function share(needs: readonly Need[], free: Amount, room: (tenant: string) => number): Need[] {
  const order = needs
    .map((need) => ({ need, heldBytes: need.member.outstanding(need.tenant).bytes }))
    .sort((a, b) => a.heldBytes - b.heldBytes);
  const given: Need[] = [];
  const givenTo = new Map<string, number>();
  let left = free;
  for (const [i, { need }] of order.entries()) {
    const { member, tenant, amount } = need;
    const fileBytes = Math.ceil(amount.bytes / amount.files);
    const tenantRoom = room(tenant) - (givenTo.get(tenant) ?? 0);
    const fit = filesThatFit({ bytes: Math.min(left.bytes, tenantRoom), files: left.files }, fileBytes);
    const equal = filesThatFit(
      { bytes: left.bytes / (order.length - i), files: left.files / (order.length - i) },
      fileBytes,
    );
    const files = Math.floor(Math.min(fit, amount.files, Math.max(1, equal)));
    const part = filesOf(files, fileBytes);
    if (isNothing(part) || exceeds(part, left)) continue;
    given.push({ member, tenant, amount: part });
    givenTo.set(tenant, (givenTo.get(tenant) ?? 0) + part.bytes);
    left = minus(left, part);
  }
  return given;
}

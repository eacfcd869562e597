import { type Amount, atLeastNothing, filesOf, filesThatFit, greater, minus, NOTHING, plus } from "./amount.js";
import type { AccountState } from "./documents.js";
import type { CapacityPace } from "./pace.js";

/** Time over which the rate of stores is averaged. */
const RATE_MS = 1000;

/** The room of one server for one tenant: what it was granted, uses and wants. Arithmetic only. */
export class Account {
  readonly tenant: string;
  readonly #pace: CapacityPace;
  #accepted: Amount = NOTHING;
  /** Stored, and whether the log says so already. */
  #stored: Amount = NOTHING;
  #reported: Amount = NOTHING;
  #released: Amount = NOTHING;
  /** Of files that are being written. */
  #underWay: Amount = NOTHING;
  /** Of stores that wait for room. */
  #waiting: Amount = NOTHING;
  #takenBytes = 0;
  #bytesAMs = 0;
  #measuredAtMs: number;
  #idleSinceMs: number;
  #fileBytes = 1;

  constructor(tenant: string, pace: CapacityPace, nowMs: number) {
    this.tenant = tenant;
    this.#pace = pace;
    this.#measuredAtMs = nowMs;
    this.#idleSinceMs = nowMs;
  }

  get accepted(): Amount {
    return this.#accepted;
  }

  get free(): Amount {
    return minus(minus(minus(this.#accepted, this.#stored), this.#released), this.#underWay);
  }

  /** Takes room for as many files as there is room for; how many. */
  reserve(count: number, fileBytes: number): number {
    const taken = Math.min(count, filesThatFit(this.free, fileBytes));
    this.#fileBytes = fileBytes;
    this.#underWay = plus(this.#underWay, filesOf(taken, fileBytes));
    this.#takenBytes += taken * fileBytes;
    return taken;
  }

  /** Ends a reservation: `stored` of its files are there, the others' room is free again. */
  settle(reserved: number, stored: number, fileBytes: number): void {
    this.#underWay = minus(this.#underWay, filesOf(reserved, fileBytes));
    this.#stored = plus(this.#stored, filesOf(stored, fileBytes));
    this.#takenBytes -= (reserved - stored) * fileBytes;
  }

  /** The log says of these that they were stored. */
  report(stored: Amount): void {
    this.#reported = plus(this.#reported, stored);
  }

  wait(amount: Amount): void {
    this.#waiting = plus(this.#waiting, amount);
  }

  stopWaiting(amount: Amount): void {
    this.#waiting = minus(this.#waiting, amount);
  }

  /** @param granted never lowers what was accepted. */
  accept(granted: Amount): void {
    this.#accepted = greater(this.#accepted, granted);
  }

  /** Measures the rate, and gives back what is not needed. Whether it gave anything back. */
  review(nowMs: number, aheadBytesMax: number): boolean {
    const elapsedMs = nowMs - this.#measuredAtMs;
    if (elapsedMs >= RATE_MS / 4) {
      const weight = Math.min(1, elapsedMs / RATE_MS);
      this.#bytesAMs += weight * (Math.max(0, this.#takenBytes) / elapsedMs - this.#bytesAMs);
      this.#takenBytes = 0;
      this.#measuredAtMs = nowMs;
    }
    const kept = this.#wanted(aheadBytesMax);
    const surplus = atLeastNothing(minus(this.free, { bytes: 2 * kept.bytes, files: 2 * kept.files }));
    if (surplus.bytes === 0 && surplus.files === 0) this.#idleSinceMs = nowMs;
    if (nowMs - this.#idleSinceMs < this.#pace.aheadMs) return false;
    this.#released = plus(this.#released, atLeastNothing(minus(this.free, kept)));
    this.#idleSinceMs = nowMs;
    return true;
  }

  /** Gives back all that is not being written. */
  releaseAll(): void {
    this.#released = plus(this.#released, atLeastNothing(this.free));
  }

  /** `accepted`: what the document shall say, which others count from then on. */
  state(accepted: Amount, aheadBytesMax: number): AccountState {
    const missing = atLeastNothing(minus(this.#wanted(aheadBytesMax), this.free));
    return {
      tenant: this.tenant,
      accepted,
      stored: this.#reported,
      released: this.#released,
      asked: plus(this.#accepted, missing),
    };
  }

  #wanted(aheadBytesMax: number): Amount {
    const bytes = Math.min(this.#bytesAMs * this.#pace.aheadMs, aheadBytesMax);
    return plus(this.#waiting, filesOf(Math.floor(bytes / this.#fileBytes), this.#fileBytes));
  }
}

import { KvferryError } from "../errors.js";

/** An eighth of a second: 2^31 of them are 8.5 years. */
const TICK_MS = 125;
const TICK_MAX = 2 ** 31 - 1;

/** Times in 32 bits: eighths of a second from an epoch on, which is the first time that was asked for; 8.5 years before and after it, and what is further
 * away counts as that far. */
export class TickClock {
  /** In eighths of a second since 1970, so that times are rounded in one way whatever the epoch. */
  #epoch: number | undefined;

  constructor(epochMs?: number) {
    if (epochMs !== undefined) this.#epoch = Math.floor(epochMs / TICK_MS);
  }

  /** @throws KvferryError INVALID_ARGUMENT for what is no time. */
  tick(nowMs: number): number {
    if (!Number.isFinite(nowMs)) {
      throw new KvferryError("INVALID_ARGUMENT", `no time: ${nowMs}`, { operation: "prefixIndex" });
    }
    const ticks = Math.floor(nowMs / TICK_MS);
    this.#epoch ??= ticks;
    return Math.max(-TICK_MAX, Math.min(TICK_MAX, ticks - this.#epoch));
  }

  ms(tick: number): number {
    return ((this.#epoch ?? 0) + tick) * TICK_MS;
  }
}

import { KvferryError } from "../errors.js";

/** An eighth of a second: 2^31 of them are 8.5 years. */
const TICK_MS = 125;
const TICK_MAX = 2 ** 31 - 1;

/** Times in 32 bits: eighths of a second since the first time that was asked for; 8.5 years before and after it, and what is further away
 * counts as that far. */
export class TickClock {
  #epochMs: number | undefined;

  constructor(epochMs?: number) {
    this.#epochMs = epochMs;
  }

  get epochMs(): number | undefined {
    return this.#epochMs;
  }

  /** @throws KvferryError INVALID_ARGUMENT for what is no time. */
  tick(nowMs: number): number {
    if (!Number.isFinite(nowMs)) {
      throw new KvferryError("INVALID_ARGUMENT", `no time: ${nowMs}`, { operation: "prefixIndex" });
    }
    this.#epochMs ??= nowMs;
    return Math.max(-TICK_MAX, Math.min(TICK_MAX, Math.floor((nowMs - this.#epochMs) / TICK_MS)));
  }

  ms(tick: number): number {
    return (this.#epochMs ?? 0) + tick * TICK_MS;
  }
}

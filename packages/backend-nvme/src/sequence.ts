import type { Clock } from "@kvferry/core";

/** Numbers within a millisecond; 2^53 of them last until the year 2248. */
const PER_MS = 1024;

/** Numbers that always rise, on one drive through all its restarts, and that tell the time: the order of records and when they were written. */
export class SequenceSource {
  readonly #clock: Clock;
  #last = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  next(): number {
    this.#last = Math.max(this.#last + 1, Math.floor(this.#clock.nowMs()) * PER_MS);
    return this.#last;
  }

  /** This number has been given before. */
  seen(sequence: number): void {
    if (sequence > this.#last) this.#last = sequence;
  }
}

/** When a sequence was given, ms since 1970. */
export function timeOf(sequence: number): number {
  return Math.floor(sequence / PER_MS);
}

/** How many transfers use each segment, and a way to wait until none does. */
export class UseCounts {
  readonly #counts: Uint32Array;
  readonly #waiting: Map<number, (() => void)[]> = new Map();

  constructor(segments: number) {
    this.#counts = new Uint32Array(segments);
  }

  begin(segment: number): void {
    this.#counts[segment] = (this.#counts[segment] as number) + 1;
  }

  end(segment: number): void {
    const left = (this.#counts[segment] as number) - 1;
    this.#counts[segment] = left;
    if (left > 0) return;
    const waiting = this.#waiting.get(segment);
    this.#waiting.delete(segment);
    for (const resolve of waiting ?? []) resolve();
  }

  /** Settles when nothing uses the segment. */
  async idle(segment: number): Promise<void> {
    while (this.#counts[segment] !== 0) {
      await new Promise<void>((resolve) => {
        const waiting = this.#waiting.get(segment);
        if (waiting === undefined) this.#waiting.set(segment, [resolve]);
        else waiting.push(resolve);
      });
    }
  }
}

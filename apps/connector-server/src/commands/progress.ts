const WIDTH = 24;
const REDRAW_MS = 100;

/** A line on a terminal that is drawn over itself; nothing anywhere else, so that logs and pipes stay clean. */
export class Progress {
  readonly #stream: NodeJS.WriteStream;
  readonly #active: boolean;
  readonly #startedMs: number = performance.now();
  #drawnMs = Number.NEGATIVE_INFINITY;

  /** @param active false: draw nothing. */
  constructor(active: boolean, stream: NodeJS.WriteStream = process.stderr) {
    this.#stream = stream;
    this.#active = active && stream.isTTY === true;
  }

  /** `done` of `total` (0: unknown), and what else there is to say. */
  show(label: string, done: number, total: number, facts: string): void {
    const nowMs = performance.now();
    if (!this.#active || nowMs - this.#drawnMs < REDRAW_MS) return;
    this.#drawnMs = nowMs;
    const share = total > 0 ? Math.min(1, done / total) : 0;
    const filled = Math.round(share * WIDTH);
    const bar =
      total > 0 ? `[${"#".repeat(filled)}${"-".repeat(WIDTH - filled)}] ${Math.floor(share * 100)} %` : `${done}`;
    const left = share > 0 ? `, ${seconds(((nowMs - this.#startedMs) * (1 - share)) / share)} left` : "";
    const width = Math.max(20, (this.#stream.columns ?? 80) - 1);
    this.#stream.write(`\r\u001b[K${`${label} ${bar} ${facts}${left}`.slice(0, width)}`);
  }

  /** Takes the line away. */
  end(): void {
    if (this.#active && this.#drawnMs > 0) this.#stream.write("\r\u001b[K");
  }
}

function seconds(ms: number): string {
  const total = Math.ceil(ms / 1000);
  return total < 90 ? `${total} s` : `${Math.ceil(total / 60)} min`;
}

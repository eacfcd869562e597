/** Repeats a task, never two of it at once. */
export class Loop {
  readonly #task: () => Promise<number>;
  readonly #onError: (thrown: unknown) => void;
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> | undefined;
  #again = false;
  #stopped = false;
  #failures = 0;

  /** @param task returns the pause before it runs again, ms; infinite: until `kick`. */
  constructor(task: () => Promise<number>, onError: (thrown: unknown) => void) {
    this.#task = task;
    this.#onError = onError;
  }

  /** Runs the task as soon as it can be. */
  kick(): void {
    if (this.#stopped) return;
    if (this.#running !== undefined) {
      this.#again = true;
      return;
    }
    clearTimeout(this.#timer);
    this.#running = this.#run();
  }

  /** Ends after the run under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#running;
  }

  async #run(): Promise<void> {
    let pauseMs: number;
    this.#again = false;
    try {
      pauseMs = await this.#task();
      this.#failures = 0;
    } catch (thrown) {
      this.#failures++;
      pauseMs = Math.min(RETRY_MAX_MS, RETRY_MS * 2 ** this.#failures);
      this.#again = false;
      this.#onError(thrown);
    }
    this.#running = undefined;
    if (this.#stopped || (pauseMs === Number.POSITIVE_INFINITY && !this.#again)) return;
    this.#timer = setTimeout(() => this.kick(), this.#again ? 0 : pauseMs);
    this.#timer.unref();
  }
}

const RETRY_MS = 25;
const RETRY_MAX_MS = 2000;

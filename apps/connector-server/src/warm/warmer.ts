import { KvferryError, toKvferryError } from "@kvferry/core";
import { noProgress, type WarmOptions, type WarmParts, type WarmProgress, warmTiers } from "./warm-run.js";

/** The last run, or the one under way, as the status shows it. */
export interface WarmStatus extends WarmProgress {
  /** start: the configuration's `warm`. command: `kvferry warm`. */
  readonly startedBy: "start" | "command";
  readonly startedAtMs: number;
  readonly seconds: number;
}

interface Run {
  readonly progress: WarmProgress;
  readonly startedBy: WarmStatus["startedBy"];
  readonly startedAtMs: number;
  endedAtMs: number | undefined;
}

/** Warms the tiers, one run at a time. */
export class Warmer {
  readonly #parts: WarmParts;
  readonly #stopping: AbortController = new AbortController();
  #last: Run | undefined;
  #running: Promise<unknown> | undefined;

  constructor(parts: WarmParts) {
    this.#parts = parts;
  }

  /** undefined if there was no run yet. */
  get status(): WarmStatus | undefined {
    if (this.#last === undefined) return undefined;
    const { progress, startedBy, startedAtMs, endedAtMs } = this.#last;
    const seconds = ((endedAtMs ?? Date.now()) - startedAtMs) / 1000;
    return { startedBy, startedAtMs, seconds, ...progress };
  }

  /** Runs to the end, or until the signal is aborted.
   * @throws KvferryError BUSY while another run is under way, UNAVAILABLE while the server ends, INVALID_ARGUMENT where there is nothing to warm. */
  async run(startedBy: WarmStatus["startedBy"], options: WarmOptions, signal?: AbortSignal): Promise<WarmStatus> {
    const stopping = this.#stopping.signal;
    if (stopping.aborted) throw refusal("UNAVAILABLE", "the server is about to end");
    if (this.#running !== undefined)
      throw refusal("BUSY", "it is under way already; kvferry status tells how far it is");
    const run: Run = { progress: noProgress(), startedBy, startedAtMs: Date.now(), endedAtMs: undefined };
    this.#last = run;
    const both = signal === undefined ? stopping : AbortSignal.any([signal, stopping]);
    const running = this.#run(run, options, both);
    this.#running = running;
    await running;
    return this.status as WarmStatus;
  }

  /** Ends what is under way. No other run can begin. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running?.catch(() => {}); // whoever started it was told
  }

  async #run(run: Run, options: WarmOptions, signal: AbortSignal): Promise<void> {
    const { progress, startedBy } = run;
    try {
      await warmTiers(this.#parts, options, signal, progress);
    } catch (thrown) {
      progress.state = "failed";
      throw toKvferryError(thrown, "warm");
    } finally {
      this.#running = undefined;
      run.endedAtMs = Date.now();
      const facts = { startedBy, state: progress.state, ...progress.counts, tiers: progress.tiers };
      this.#parts.logger.info(facts, "warming has ended");
    }
  }
}

function refusal(code: "BUSY" | "UNAVAILABLE", reason: string): KvferryError {
  return new KvferryError(code, `warm: ${reason}`, { operation: "warm" });
}

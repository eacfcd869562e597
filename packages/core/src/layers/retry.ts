import type { BlockBatch, OffloadBackend, Usage } from "../backend.js";
import { mergeResult, selectBatch } from "../batches.js";
import type { AuthorOptions } from "../call.js";
import { ERROR_CODES, type ErrorCode, toKvferryError } from "../errors.js";
import { type KeyBatch, selectKeys } from "../keys.js";
import { type BatchResult, Outcome, outcomeCode, uniformResult } from "../outcomes.js";
import { checkNumbers } from "./config.js";
import { Layer } from "./layer.js";
import { pause } from "./pause.js";

export interface RetryConfig {
  /** Attempts of a call, the first included; default 3. */
  readonly attemptsMax?: number | undefined;
  /** Ms before the second attempt; doubles with each further one. Default 20. */
  readonly backoffMs?: number | undefined;
  /** Ms before any attempt, at most; default 2,000. */
  readonly backoffMsMax?: number | undefined;
  /** Retries for each call in the long run, at most, so that a storage in trouble is not pressed harder; default 0.2. */
  readonly retriesPerCallMax?: number | undefined;
  /** Retries that may come at once after a quiet time; default 20. */
  readonly retriesBurstMax?: number | undefined;
  /** Random numbers in [0, 1), for the jitter; default Math.random. */
  readonly random?: (() => number) | undefined;
}

/** Attempts of one call so far. */
interface Tries {
  made: number;
}

const DEFAULTS = { attemptsMax: 3, backoffMs: 20, backoffMsMax: 2000, retriesPerCallMax: 0.2, retriesBurstMax: 20 };

/**
 * Tries again what may pass: of a batch only the keys that FAILED with a temporary code, as a smaller batch; of lookup and usage the
 * call, if it rejects with a temporary error. Waits between attempts, longer each time and by a random share (full jitter on the
 * upper half), and stops when the signal or the deadline says so, or when the budget of retries is used up; a key then
 * keeps the code that it failed with. What still rejects after the last attempt is `persistent`. ABORTED and the call's own
 * DEADLINE are never tried again. Scans are not retried: their reader cannot tell what it has seen.
 */
export class RetryLayer extends Layer {
  readonly #config: typeof DEFAULTS;
  readonly #random: () => number;
  #budget: number;

  /** @throws KvferryError CONFIG_INVALID with `context.field`. */
  constructor(inner: OffloadBackend, config: RetryConfig = {}) {
    super(inner);
    const minima = { attemptsMax: 1, backoffMs: 0, backoffMsMax: 0, retriesPerCallMax: 0, retriesBurstMax: 0 };
    checkNumbers("retry", config, minima);
    const { random = Math.random, ...numbers } = config;
    const given = Object.entries(numbers).filter(([, value]) => value !== undefined);
    this.#config = { ...DEFAULTS, ...Object.fromEntries(given) };
    this.#random = random;
    this.#budget = this.#config.retriesBurstMax;
  }

  protected override _lookup(keys: KeyBatch, options: AuthorOptions): Promise<Uint8Array> {
    return this.#again("lookup", options.signal, () => this.inner.lookup(keys, options));
  }

  protected override _usage(): Promise<Usage> {
    return this.#again("usage", undefined, () => this.inner.usage());
  }

  protected override _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#failedAgain("store", batch.keys.count, options.signal, (positions) =>
      this.inner.store(positions === undefined ? batch : selectBatch(batch, positions), options),
    );
  }

  protected override _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#failedAgain("load", batch.keys.count, options.signal, (positions) =>
      this.inner.load(positions === undefined ? batch : selectBatch(batch, positions), options),
    );
  }

  protected override _remove(keys: KeyBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#failedAgain("remove", keys.count, options.signal, (positions) =>
      this.inner.remove(positions === undefined ? keys : selectKeys(keys, positions), options),
    );
  }

  async #again<T>(
    operation: string,
    signal: AbortSignal | undefined,
    attempt: () => Promise<T>,
    tries: Tries = { made: 0 },
  ): Promise<T> {
    this.#earn();
    for (;;) {
      tries.made++;
      try {
        return await attempt();
      } catch (thrown) {
        const error = toKvferryError(thrown, operation);
        if (error.status !== "temporary" || signal?.aborted || error.code === "ABORTED") throw error;
        if (!(await this.#mayTryAgain(tries, signal))) throw error.asPersistent();
      }
    }
  }

  async #failedAgain(
    operation: string,
    count: number,
    signal: AbortSignal | undefined,
    attempt: (positions: number[] | undefined) => Promise<BatchResult>,
  ): Promise<BatchResult> {
    const tries: Tries = { made: 0 };
    const first = await this.#again(operation, signal, () => attempt(undefined), tries);
    if (!first.outcomes.includes(Outcome.FAILED)) return first;
    const all = Array.from({ length: count }, (_, i) => i);
    let failed = worthTrying(first, all);
    if (failed.length === 0) return first;
    const result = { outcomes: first.outcomes.slice(), codes: first.codes.slice() };
    while (failed.length > 0 && !signal?.aborted && (await this.#mayTryAgain(tries, signal))) {
      tries.made++;
      mergeResult(result, failed, await asResult(operation, failed.length, () => attempt(failed)));
      failed = worthTrying(result, failed);
    }
    return result;
  }

  #earn(): void {
    const { retriesPerCallMax, retriesBurstMax } = this.#config;
    this.#budget = Math.min(retriesBurstMax, this.#budget + retriesPerCallMax);
  }

  async #mayTryAgain({ made }: Tries, signal: AbortSignal | undefined): Promise<boolean> {
    const { attemptsMax, backoffMs, backoffMsMax } = this.#config;
    if (made >= attemptsMax || this.#budget < 1) return false;
    this.#budget--;
    const longest = Math.min(backoffMsMax, backoffMs * 2 ** (made - 1));
    return pause(longest * (0.5 + this.#random() / 2), signal);
  }
}

/** An attempt that rejects is one in which each of its keys has failed: the other keys of the batch have their outcomes already. */
async function asResult(operation: string, count: number, attempt: () => Promise<BatchResult>): Promise<BatchResult> {
  try {
    return await attempt();
  } catch (thrown) {
    return uniformResult(count, Outcome.FAILED, toKvferryError(thrown, operation).code);
  }
}

/** Of these positions those that FAILED with a temporary code. */
function worthTrying(result: BatchResult, positions: readonly number[]): number[] {
  return positions.filter((i) => {
    if (result.outcomes[i] !== Outcome.FAILED) return false;
    const code: ErrorCode = outcomeCode(result, i) ?? "INTERNAL";
    return ERROR_CODES[code].status === "temporary" && code !== "ABORTED";
  });
}

import type { BlockBatch, OffloadBackend, Usage } from "../backend.js";
import type { AuthorOptions } from "../call.js";
import { type ErrorCode, KvferryError, toKvferryError } from "../errors.js";
import type { KeyBatch } from "../keys.js";
import { type BatchResult, LookupState, Outcome, outcomeCode, uniformResult } from "../outcomes.js";
import type { AuthorScanOptions, ScanPage } from "../scan.js";
import { CallWindow } from "./call-window.js";
import { checkNumbers } from "./config.js";
import { Layer } from "./layer.js";

/** closed: calls go through. open: they do not. half-open: one probes whether they could. */
export type CircuitState = "closed" | "open" | "half-open";

export interface CircuitChange {
  readonly backend: string;
  readonly from: CircuitState;
  readonly to: CircuitState;
  /** The code of the failure that opened it. */
  readonly code: ErrorCode | undefined;
}

export interface CircuitBreakerConfig {
  /** Opens after this many failed calls in a row; default 5. */
  readonly failuresInRowMax?: number | undefined;
  /** Opens when more than this share of the calls in the window failed; default 0.5. */
  readonly failureRatioMax?: number | undefined;
  /** … provided that there were this many calls; default 20. */
  readonly windowCallsMin?: number | undefined;
  /** The window that the ratio looks at; default 10,000. */
  readonly windowMs?: number | undefined;
  /** How long it stays open before it lets a probe through; default 5,000. */
  readonly openMs?: number | undefined;
  readonly onStateChange?: ((change: CircuitChange) => void) | undefined;
}

const DEFAULTS = { failuresInRowMax: 5, failureRatioMax: 0.5, windowCallsMin: 20, windowMs: 10_000, openMs: 5000 };

/** Codes that say that the storage, and not the call or its caller, is in trouble. */
const TROUBLE: ReadonlySet<ErrorCode> = new Set([
  "INTERNAL",
  "DEADLINE",
  "IO",
  "STALE",
  "UNAVAILABLE",
  "TOO_MANY_FILES",
]);

type Verdict = "good" | "bad" | "neither";

interface Guarded<T> {
  call(): Promise<T>;
  judge(value: T): { verdict: Verdict; code: ErrorCode | undefined };
  refused(): T;
}

/**
 * Stops asking a storage that fails. A call is failed if it rejects with a code of trouble, or if more than half of its keys FAILED with
 * one; a call that its caller aborted says nothing. While the circuit is open everything is answered at once: lookup all MISS, store DROPPED(UNAVAILABLE),
 * load and remove FAILED(UNAVAILABLE); usage and scan reject with UNAVAILABLE. After `openMs` one call goes through
 * as a probe: good closes the circuit, bad opens it for another `openMs`.
 */
export class CircuitBreakerLayer extends Layer {
  readonly #config: typeof DEFAULTS;
  readonly #onStateChange: ((change: CircuitChange) => void) | undefined;
  readonly #window: CallWindow;
  #state: CircuitState = "closed";
  #failuresInRow = 0;
  #openUntilMs = 0;
  #probing = false;

  /** @throws KvferryError CONFIG_INVALID with `context.field`. */
  constructor(inner: OffloadBackend, config: CircuitBreakerConfig = {}) {
    super(inner);
    const minima = { failuresInRowMax: 1, failureRatioMax: 0, windowCallsMin: 1, windowMs: 10, openMs: 0 };
    checkNumbers("circuit breaker", config, minima);
    const { onStateChange, ...numbers } = config;
    const given = Object.entries(numbers).filter(([, value]) => value !== undefined);
    this.#config = { ...DEFAULTS, ...Object.fromEntries(given) };
    this.#onStateChange = onStateChange;
    this.#window = new CallWindow(this.#config.windowMs);
  }

  get circuit(): CircuitState {
    return this.#state;
  }

  protected override _lookup(keys: KeyBatch, options: AuthorOptions): Promise<Uint8Array> {
    return this.#guard({
      call: () => this.inner.lookup(keys, options),
      judge: good,
      refused: () => new Uint8Array(keys.count).fill(LookupState.MISS),
    });
  }

  /** What is in memory is not in trouble; but while the circuit is open a HIT could not be loaded. */
  protected override _lookupNow(keys: KeyBatch): Uint8Array | undefined {
    return this.#state === "closed" ? super._lookupNow(keys) : undefined;
  }

  protected override _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#guard({
      call: () => this.inner.store(batch, options),
      judge: judgeBatch,
      refused: () => uniformResult(batch.keys.count, Outcome.DROPPED, "UNAVAILABLE"),
    });
  }

  protected override _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#guard({
      call: () => this.inner.load(batch, options),
      judge: judgeBatch,
      refused: () => uniformResult(batch.keys.count, Outcome.FAILED, "UNAVAILABLE"),
    });
  }

  protected override _remove(keys: KeyBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#guard({
      call: () => this.inner.remove(keys, options),
      judge: judgeBatch,
      refused: () => uniformResult(keys.count, Outcome.FAILED, "UNAVAILABLE"),
    });
  }

  protected override _usage(): Promise<Usage> {
    return this.#guard({
      call: () => this.inner.usage(),
      judge: good,
      refused: () => {
        throw this.#unavailable("usage");
      },
    });
  }

  protected override _scan(options: AuthorScanOptions): AsyncIterable<ScanPage> {
    if (this.#state !== "closed") throw this.#unavailable("scan"); // too long a call to probe with
    return super._scan(options);
  }

  async #guard<T>({ call, judge, refused }: Guarded<T>): Promise<T> {
    const probe = this.#state !== "closed";
    if (probe && !this.#mayProbe()) return refused();
    try {
      const value = await call();
      const { verdict, code } = judge(value);
      this.#heard(verdict, code, probe);
      return value;
    } catch (thrown) {
      const { code } = toKvferryError(thrown, "");
      this.#heard(TROUBLE.has(code) ? "bad" : "neither", code, probe);
      throw thrown;
    }
  }

  #mayProbe(): boolean {
    if (this.#probing || this.#now() < this.#openUntilMs) return false;
    this.#probing = true;
    this.#change("half-open", undefined);
    return true;
  }

  #heard(verdict: Verdict, code: ErrorCode | undefined, probe: boolean): void {
    if (probe) this.#probing = false;
    if (verdict === "neither") return;
    if (probe) {
      if (verdict === "bad") this.#open(code);
      else this.#close();
      return;
    }
    if (this.#state !== "closed") return; // a call from before it opened
    this.#failuresInRow = verdict === "bad" ? this.#failuresInRow + 1 : 0;
    this.#window.add(this.#now(), verdict === "bad");
    if (verdict === "bad" && this.#tooMany()) this.#open(code);
  }

  #tooMany(): boolean {
    const { failuresInRowMax, failureRatioMax, windowCallsMin } = this.#config;
    if (this.#failuresInRow >= failuresInRowMax) return true;
    const { calls, failures } = this.#window.counts(this.#now());
    return calls >= windowCallsMin && failures / calls > failureRatioMax;
  }

  #open(code: ErrorCode | undefined): void {
    this.#openUntilMs = this.#now() + this.#config.openMs;
    this.#change("open", code);
  }

  #close(): void {
    this.#failuresInRow = 0;
    this.#window.clear();
    this.#change("closed", undefined);
  }

  #change(to: CircuitState, code: ErrorCode | undefined): void {
    const from = this.#state;
    if (from === to) return;
    this.#state = to;
    const change = { backend: this.manifest.name, from, to, code };
    this.context.logger.warn(change, `circuit breaker: ${from} to ${to}`);
    try {
      this.#onStateChange?.(change);
    } catch (err) {
      this.context.logger.error({ err }, "onStateChange has thrown");
    }
  }

  #now(): number {
    return this.context.clock.monotonicMs();
  }

  #unavailable(operation: string): KvferryError {
    return new KvferryError("UNAVAILABLE", `${this.manifest.name}: the circuit breaker is ${this.#state}`, {
      operation,
    });
  }
}

function good(): { verdict: Verdict; code: undefined } {
  return { verdict: "good", code: undefined };
}

/** Bad: most keys failed by trouble. Neither: so many failed for reasons of the caller's that the rest says little. */
function judgeBatch(result: BatchResult): { verdict: Verdict; code: ErrorCode | undefined } {
  const count = result.outcomes.length;
  let trouble = 0;
  let answered = 0;
  let last: ErrorCode | undefined;
  for (let i = 0; i < count; i++) {
    if (result.outcomes[i] !== Outcome.FAILED) {
      answered++;
      continue;
    }
    const code = outcomeCode(result, i) ?? "INTERNAL";
    if (!TROUBLE.has(code)) continue;
    trouble++;
    last = code;
  }
  if (trouble * 2 > count) return { verdict: "bad", code: last };
  return { verdict: answered > 0 ? "good" : "neither", code: undefined };
}

import type { BlockBatch, OffloadBackend } from "../backend.js";
import { type AuthorOptions, abortCode, type Priority } from "../call.js";
import type { KeyBatch } from "../keys.js";
import { type BatchResult, Outcome, uniformResult } from "../outcomes.js";
import { checkNumbers } from "./config.js";
import { Layer } from "./layer.js";

export interface LimitConfig {
  /** Loads, stores and removes under way at once, at most; default 16. */
  readonly callsMax?: number | undefined;
  /** Bytes of blocks under way at once, at most; a batch that is larger runs alone. Default 256 MiB. */
  readonly bytesMax?: number | undefined;
  /** Calls waiting, at most; default 256. */
  readonly queueDepthMax?: number | undefined;
}

const DEFAULTS = { callsMax: 16, bytesMax: 256 * 1024 * 1024, queueDepthMax: 256 };

/** Why a call that waits will not run. */
type Refusal = "BUSY" | "ABORTED" | "DEADLINE";

interface Waiting {
  readonly bytes: number;
  /** Undefined: go. */
  decide(refusal: Refusal | undefined): void;
}

/**
 * Bounds what is under way, and what waits for it. Loads go before stores and removes, whoever came first; when the queue is full,
 * a load takes the place of the store that came last. What finds no place ends at once: stores DROPPED(BUSY), loads and removes
 * FAILED(BUSY). A call that is aborted while it waits ends as FAILED without having begun. Lookups, scans and usage move no
 * blocks and go straight through.
 */
export class LimitLayer extends Layer {
  readonly #config: typeof DEFAULTS;
  readonly #queues: Readonly<Record<Priority, Set<Waiting>>> = { load: new Set(), store: new Set() };
  #calls = 0;
  #bytes = 0;

  /** @throws KvferryError CONFIG_INVALID with `context.field`. */
  constructor(inner: OffloadBackend, config: LimitConfig = {}) {
    super(inner);
    checkNumbers("limit", config, { callsMax: 1, bytesMax: 1, queueDepthMax: 0 });
    const given = Object.entries(config).filter(([, value]) => value !== undefined);
    this.#config = { ...DEFAULTS, ...Object.fromEntries(given) };
  }

  /** Calls that wait. */
  get queueDepth(): number {
    return this.#queues.load.size + this.#queues.store.size;
  }

  protected override _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const count = batch.keys.count;
    return this.#inTurn(count * this.context.blockBytes, options, {
      run: () => this.inner.store(batch, options),
      refused: (code) => uniformResult(count, code === "BUSY" ? Outcome.DROPPED : Outcome.FAILED, code),
    });
  }

  protected override _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const count = batch.keys.count;
    return this.#inTurn(count * this.context.blockBytes, options, {
      run: () => this.inner.load(batch, options),
      refused: (code) => uniformResult(count, Outcome.FAILED, code),
    });
  }

  protected override _remove(keys: KeyBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#inTurn(0, options, {
      run: () => this.inner.remove(keys, options),
      refused: (code) => uniformResult(keys.count, Outcome.FAILED, code),
    });
  }

  async #inTurn(
    bytes: number,
    { priority, signal }: AuthorOptions,
    { run, refused }: { run(): Promise<BatchResult>; refused(code: Refusal): BatchResult },
  ): Promise<BatchResult> {
    const refusal = await this.#turn(bytes, priority, signal);
    if (refusal !== undefined) return refused(refusal);
    try {
      return await run();
    } finally {
      this.#calls--;
      this.#bytes -= bytes;
      this.#admit();
    }
  }

  /** Waits for the call's turn, which it then has; or says why there is none. */
  async #turn(bytes: number, priority: Priority, signal: AbortSignal | undefined): Promise<Refusal | undefined> {
    const before = priority === "load" ? this.#queues.load.size : this.queueDepth;
    if (before === 0 && this.#fits(bytes)) {
      this.#begin(bytes);
      return undefined;
    }
    if (this.queueDepth >= this.#config.queueDepthMax && !(priority === "load" && this.#giveUpAStore())) return "BUSY";
    return new Promise((resolve) => {
      const queue = this.#queues[priority];
      const onAbort = (): void => waiting.decide(abortCode(signal as AbortSignal));
      const waiting: Waiting = {
        bytes,
        decide(refusal) {
          signal?.removeEventListener("abort", onAbort);
          queue.delete(waiting);
          resolve(refusal);
        },
      };
      queue.add(waiting);
      signal?.addEventListener("abort", onAbort, { once: true });
    });
  }

  #giveUpAStore(): boolean {
    const last = [...this.#queues.store].at(-1);
    last?.decide("BUSY");
    return last !== undefined;
  }

  #admit(): void {
    for (const queue of [this.#queues.load, this.#queues.store]) {
      for (const waiting of queue) {
        if (!this.#fits(waiting.bytes)) return; // in order: a small call must not keep a large one waiting for ever
        this.#begin(waiting.bytes);
        waiting.decide(undefined);
      }
    }
  }

  #begin(bytes: number): void {
    this.#calls++;
    this.#bytes += bytes;
  }

  #fits(bytes: number): boolean {
    if (this.#calls === 0) return true;
    return this.#calls < this.#config.callsMax && this.#bytes + bytes <= this.#config.bytesMax;
  }
}

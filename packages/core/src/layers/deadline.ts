import type { AuthorContext, BlockBatch, OffloadBackend, Usage } from "../backend.js";
import { type AuthorOptions, abortError, callLimit } from "../call.js";
import { type ErrorCode, KvferryError } from "../errors.js";
import type { KeyBatch } from "../keys.js";
import { type BatchResult, Outcome, uniformResult } from "../outcomes.js";
import { checkNumbers } from "./config.js";
import { Layer } from "./layer.js";

/** Ms that each operation may take, the caller's own deadline aside (the earlier one counts). Left out: as long as it takes. */
export interface DeadlineConfig {
  readonly openMs?: number | undefined;
  readonly lookupMs?: number | undefined;
  readonly loadMs?: number | undefined;
  readonly storeMs?: number | undefined;
  readonly removeMs?: number | undefined;
  readonly usageMs?: number | undefined;
  readonly closeMs?: number | undefined;
  /** Ms after the abort in which the backend may still end the call itself, with what it knows of each key; default 10. */
  readonly graceMs?: number | undefined;
  /** Calls left alone that have not ended yet, at most; beyond it, calls fail at once with UNAVAILABLE. Default 64. */
  readonly abandonedCallsMax?: number | undefined;
}

const GRACE_MS = 10;
const ABANDONED_CALLS_MAX = 64;
const MINIMA: Partial<Record<keyof DeadlineConfig, number>> = {
  ...{ openMs: 0, lookupMs: 0, loadMs: 0, storeMs: 0, removeMs: 0, usageMs: 0, closeMs: 0 },
  ...{ graceMs: 0, abandonedCallsMax: 1 },
};

interface Limited<T> {
  readonly operation: string;
  readonly deadlineMs: number | undefined;
  readonly signal: AbortSignal | undefined;
  readonly abandon: boolean;
  call(signal: AbortSignal | undefined): Promise<T>;
  /** The answer where the backend gives none. */
  failed(error: KvferryError): T;
}

/**
 * Gives every call an end. At the deadline the call's signal is aborted. What happens then is a matter of memory: as long as I/O may
 * write into a slot, or read one, the caller must not have it back.
 *
 * - A load or store of a backend that is not `abandonable`: the layer waits for the backend to end it. The call can overrun its
 *   deadline, and its slots are safe.
 * - A load or store of an `abandonable` backend, whose I/O by its promise leaves the slots alone from the abort on: after a short grace,
 *   in which the backend can still tell key by key how far it came, the call ends as FAILED. What comes later is ignored.
 * - lookup, remove and usage touch no slot and are left alone on every backend. They run on a copy of the keys.
 *
 * FAILED(DEADLINE) of a store or remove says that nobody waited, not that nothing was done. Calls left alone are bounded: with a
 * storage that hangs, the layer soon answers UNAVAILABLE at once instead of piling up more of them. A scan has
 * no deadline; its reader has a signal.
 */
export class DeadlineLayer extends Layer {
  readonly #config: DeadlineConfig;
  #abandoned = 0;

  /** @throws KvferryError CONFIG_INVALID with `context.field`. */
  constructor(inner: OffloadBackend, config: DeadlineConfig) {
    super(inner);
    checkNumbers("deadline", config, MINIMA);
    this.#config = config;
  }

  /** Calls left alone that have not ended yet. */
  get abandonedCalls(): number {
    return this.#abandoned;
  }

  protected override async _open(context: AuthorContext): Promise<void> {
    const { signal, release } = callLimit({ signal: context.signal, deadlineMs: this.#config.openMs }, "open");
    try {
      await super._open({ ...context, ...(signal === undefined ? {} : { signal }) });
    } finally {
      release();
    }
  }

  protected override _lookup(keys: KeyBatch, { signal, priority }: AuthorOptions): Promise<Uint8Array> {
    const copy = copyKeys(keys);
    return this.#within({
      ...{ operation: "lookup", deadlineMs: this.#config.lookupMs, signal, abandon: true },
      call: (limited) => this.inner.lookup(copy, { signal: limited, priority }),
      failed: rethrow,
    });
  }

  protected override _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#move("store", this.#config.storeMs, batch, options);
  }

  protected override _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#move("load", this.#config.loadMs, batch, options);
  }

  protected override _remove(keys: KeyBatch, { signal, priority }: AuthorOptions): Promise<BatchResult> {
    const copy = copyKeys(keys);
    return this.#within({
      ...{ operation: "remove", deadlineMs: this.#config.removeMs, signal, abandon: true },
      call: (limited) => this.inner.remove(copy, { signal: limited, priority }),
      failed: ({ code }) => uniformResult(copy.count, Outcome.FAILED, code),
    });
  }

  protected override _usage(): Promise<Usage> {
    return this.#within({
      ...{ operation: "usage", deadlineMs: this.#config.usageMs, signal: undefined, abandon: true },
      call: () => this.inner.usage(),
      failed: rethrow,
    });
  }

  /** @throws KvferryError DEADLINE after `closeMs`; the inner backend then still holds what it holds. */
  protected override _close(): Promise<void> {
    return this.#within<void>({
      ...{ operation: "close", deadlineMs: this.#config.closeMs, signal: undefined, abandon: true },
      call: () => this.inner.close(),
      failed: rethrow,
    });
  }

  #move(
    operation: "store" | "load",
    deadlineMs: number | undefined,
    batch: BlockBatch,
    { signal, priority }: AuthorOptions,
  ): Promise<BatchResult> {
    const abandon = this.manifest.capabilities.abandonable;
    // whoever goes on after the end must not read keys and slot numbers that the caller has reused
    const own = abandon ? { ...batch, keys: copyKeys(batch.keys), slots: batch.slots.slice() } : batch;
    return this.#within({
      ...{ operation, deadlineMs, signal, abandon },
      call: (limited) => this.inner[operation](own, { signal: limited, priority }),
      failed: ({ code }) => uniformResult(own.keys.count, Outcome.FAILED, code),
    });
  }

  async #within<T>({ operation, deadlineMs, signal, abandon, call, failed }: Limited<T>): Promise<T> {
    const { abandonedCallsMax = ABANDONED_CALLS_MAX } = this.#config;
    if (this.#abandoned >= abandonedCallsMax && operation !== "close") {
      return failed(this.#error("UNAVAILABLE", operation, `${this.#abandoned} earlier calls hang`));
    }
    const limit = callLimit({ signal, deadlineMs }, operation);
    try {
      const running = call(limit.signal);
      if (!abandon || limit.signal === undefined) return await running;
      return await this.#orLeave(running, limit.signal, () =>
        failed(abortError(limit.signal as AbortSignal, operation)),
      );
    } finally {
      limit.release();
    }
  }

  /** The call's own end or, some time after the abort, `left`. */
  #orLeave<T>(running: Promise<T>, signal: AbortSignal, left: () => T): Promise<T> {
    const { graceMs = GRACE_MS } = this.#config;
    return new Promise<T>((resolve, reject) => {
      let timer: NodeJS.Timeout | undefined;
      const leave = (): void => {
        this.#abandoned++;
        const ended = (): void => {
          this.#abandoned--;
        };
        running.then(ended, ended);
        try {
          resolve(left());
        } catch (error) {
          reject(error);
        }
      };
      const onAbort = (): void => {
        timer = setTimeout(leave, graceMs);
      };
      const ended = (): void => {
        clearTimeout(timer);
        signal.removeEventListener("abort", onAbort);
      };
      running.then(ended, ended);
      running.then(resolve, reject);
      if (signal.aborted) onAbort();
      else signal.addEventListener("abort", onAbort, { once: true });
    });
  }

  #error(code: ErrorCode, operation: string, reason: string): KvferryError {
    return new KvferryError(code, `${this.manifest.name}: ${operation}: ${reason}`, { operation });
  }
}

function copyKeys(keys: KeyBatch): KeyBatch {
  return { ...keys, bytes: keys.bytes.slice() };
}

function rethrow(error: KvferryError): never {
  throw error;
}

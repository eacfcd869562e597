import {
  type AuthorOptions,
  type BatchResult,
  type BlockBatch,
  type Capabilities,
  defineManifest,
  type ErrorCode,
  type KeyBatch,
  KvferryError,
  Layer,
  mergeResult,
  type OffloadBackend,
  Outcome,
  selectBatch,
  selectKeys,
  setOutcome,
  type Usage,
  uniformResult,
} from "@kvferry/core";
import { seededRandom } from "./random.js";

export type FaultyOperation = "lookup" | "store" | "load" | "remove" | "usage";

export interface FaultyOptions {
  /** The same seed, the same faults; default 1. */
  readonly seed?: number;
  /** Capabilities to claim instead of the inner backend's: for layers that decide by them. */
  readonly capabilities?: Partial<Capabilities>;
}

export interface FailOptions {
  /** Of a key to fail, 0 to 1; default 1. */
  readonly probability?: number;
  /** Calls that it is for, the next ones; default: all. */
  readonly times?: number;
  /** The outcome of a failed key; default FAILED. */
  readonly outcome?: Outcome;
}

/** A fault in force. */
export interface Fault {
  /** Takes it back; a hang lets go of its calls, which then go on. */
  remove(): void;
}

interface Rule {
  readonly operation: FaultyOperation;
  callsLeft: number;
  /** Before the inner backend is asked. */
  before?(): Promise<void>;
  /** Whether a key fails. */
  failsKey?(): boolean;
  readonly code?: ErrorCode;
  readonly outcome?: Outcome;
  readonly truncates?: boolean;
}

/**
 * A layer that does harm, to test other layers and whoever calls a backend. Faults are added while it runs and act on calls that begin
 * afterwards. A key that fails never reaches the inner backend; the rest of its batch does.
 */
export class FaultyBackend extends Layer {
  /** Calls that have reached this layer, by operation. */
  readonly calls: Record<FaultyOperation, number> = { lookup: 0, store: 0, load: 0, remove: 0, usage: 0 };
  /** Keys of the batches of those calls, by operation. */
  readonly keys: Record<FaultyOperation, number> = { lookup: 0, store: 0, load: 0, remove: 0, usage: 0 };
  readonly #random: () => number;
  readonly #rules: Set<Rule> = new Set();

  constructor(inner: OffloadBackend, { seed = 1, capabilities = {} }: FaultyOptions = {}) {
    const { name, limits, capabilities: own } = inner.manifest;
    super(inner, defineManifest({ name, limits, capabilities: { ...own, ...capabilities } }));
    this.#random = seededRandom(seed);
  }

  /** Keys of these calls fail with a code; a lookup or usage, which has no outcome a key, rejects. */
  fail(operation: FaultyOperation, code: ErrorCode, options: FailOptions = {}): Fault {
    const { probability = 1, times = Number.POSITIVE_INFINITY, outcome = Outcome.FAILED } = options;
    return this.#add({ operation, callsLeft: times, code, outcome, failsKey: () => this.#random() < probability });
  }

  /** These calls reject as a whole. */
  reject(operation: FaultyOperation, code: ErrorCode, times: number = Number.POSITIVE_INFINITY): Fault {
    const before = async (): Promise<void> => {
      throw new KvferryError(code, `a fault of the test: ${operation}`, { operation });
    };
    return this.#add({ operation, callsLeft: times, before });
  }

  /** These calls wait for `delayMs` first, and up to `jitterMs` longer. The signal does not shorten it. */
  delay(operation: FaultyOperation, delayMs: number, jitterMs: number = 0): Fault {
    const before = (): Promise<void> =>
      new Promise((resolve) => setTimeout(resolve, delayMs + this.#random() * jitterMs));
    return this.#add({ operation, callsLeft: Number.POSITIVE_INFINITY, before });
  }

  /** These calls hang, whatever their signal says, until the fault is removed. */
  hang(operation: FaultyOperation): Fault {
    let release = (): void => {};
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    const fault = this.#add({ operation, callsLeft: Number.POSITIVE_INFINITY, before: () => released });
    return {
      remove() {
        fault.remove();
        release();
      },
    };
  }

  /** These calls answer one key too few. */
  truncate(operation: "lookup" | "store" | "load" | "remove"): Fault {
    return this.#add({ operation, callsLeft: Number.POSITIVE_INFINITY, truncates: true });
  }

  protected override async _lookup(keys: KeyBatch, options: AuthorOptions): Promise<Uint8Array> {
    const rules = await this.#begin("lookup", keys.count);
    for (const { failsKey, code } of rules) {
      if (code !== undefined && failsKey?.())
        throw new KvferryError(code, "a fault of the test", { operation: "lookup" });
    }
    const states = await super._lookup(keys, options);
    return rules.some(({ truncates }) => truncates) ? states.subarray(1) : states;
  }

  protected override _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#batch("store", batch.keys.count, (positions) => super._store(selectBatch(batch, positions), options));
  }

  protected override _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#batch("load", batch.keys.count, (positions) => super._load(selectBatch(batch, positions), options));
  }

  protected override _remove(keys: KeyBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#batch("remove", keys.count, (positions) => super._remove(selectKeys(keys, positions), options));
  }

  protected override async _usage(): Promise<Usage> {
    const rules = await this.#begin("usage", 0);
    for (const { code } of rules) {
      if (code !== undefined) throw new KvferryError(code, "a fault of the test", { operation: "usage" });
    }
    return super._usage();
  }

  #add(rule: Rule): Fault {
    this.#rules.add(rule);
    return { remove: () => this.#rules.delete(rule) };
  }

  /** The rules for this call, their waits behind it. */
  async #begin(operation: FaultyOperation, count: number): Promise<Rule[]> {
    this.calls[operation]++;
    this.keys[operation] += count;
    const rules = [...this.#rules].filter((rule) => rule.operation === operation && rule.callsLeft > 0);
    for (const rule of rules) rule.callsLeft--;
    for (const rule of rules) await rule.before?.();
    return rules;
  }

  async #batch(
    operation: "store" | "load" | "remove",
    count: number,
    call: (positions: number[]) => Promise<BatchResult>,
  ): Promise<BatchResult> {
    const rules = await this.#begin(operation, count);
    const result = uniformResult(count, Outcome.FAILED);
    const passed: number[] = [];
    for (let i = 0; i < count; i++) {
      const rule = rules.find(({ failsKey }) => failsKey?.());
      if (rule === undefined) passed.push(i);
      else setOutcome(result, i, rule.outcome ?? Outcome.FAILED, rule.code);
    }
    if (passed.length > 0) mergeResult(result, passed, await call(passed));
    if (!rules.some(({ truncates }) => truncates)) return result;
    return { outcomes: result.outcomes.subarray(1), codes: result.codes.subarray(1) };
  }
}

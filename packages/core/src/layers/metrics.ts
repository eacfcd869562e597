import type { AuthorContext, BlockBatch, OffloadBackend, Usage } from "../backend.js";
import type { AuthorOptions } from "../call.js";
import { errorCodeOf, toKvferryError } from "../errors.js";
import type { KeyBatch } from "../keys.js";
import { type BatchResult, Outcome, outcomeName } from "../outcomes.js";
import type { AuthorScanOptions, ScanPage } from "../scan.js";
import { Layer } from "./layer.js";

export type MetricLabels = Readonly<Record<string, string>>;

/** Where numbers go. Called on the way of every call: it must be quick, and what it throws is lost. */
export interface MetricsSink {
  /** Adds to a counter. */
  count(name: string, labels: MetricLabels, value: number): void;
  /** Puts a value into a histogram. */
  observe(name: string, labels: MetricLabels, value: number): void;
  /** Sets a gauge. */
  gauge(name: string, labels: MetricLabels, value: number): void;
}

export interface MetricDefinition {
  readonly name: string;
  readonly type: "counter" | "histogram" | "gauge";
  readonly help: string;
  readonly labelNames: readonly string[];
  /** Upper bounds, for a histogram. */
  readonly buckets?: readonly number[];
}

/** Every metric of the layer, so that an exporter can register them before they are used. Label values: `operation` lookup, store, load,
 * remove, scan, usage; `outcome` as in `Outcome`, lower-case, of a lookup miss, hit, pending, of a scan listed; `code` an error code or "";
 * `result` ok (no key failed), partial, failed (every key) or error (the call rejected); `reason` as in `RemovalReason`. */
export const BACKEND_METRICS: readonly MetricDefinition[] = Object.freeze([
  {
    name: "kvferry_backend_call_duration_seconds",
    type: "histogram",
    help: "Time that calls took, in seconds, by how they ended.",
    labelNames: ["backend", "operation", "result"],
    buckets: [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
  },
  {
    name: "kvferry_backend_keys_total",
    type: "counter",
    help: "Keys that calls were about, by what happened to each.",
    labelNames: ["backend", "operation", "outcome", "code"],
  },
  {
    name: "kvferry_backend_errors_total",
    type: "counter",
    help: "Calls that were rejected as a whole.",
    labelNames: ["backend", "operation", "code"],
  },
  {
    name: "kvferry_backend_bytes_total",
    type: "counter",
    help: "Bytes of the blocks that were stored or loaded.",
    labelNames: ["backend", "operation"],
  },
  {
    name: "kvferry_backend_calls_in_flight",
    type: "gauge",
    help: "Calls under way.",
    labelNames: ["backend"],
  },
  {
    name: "kvferry_backend_removed_blocks_total",
    type: "counter",
    help: "Blocks that went away without being asked for.",
    labelNames: ["backend", "reason"],
  },
] satisfies MetricDefinition[]);

const LOOKUP_OUTCOMES: readonly string[] = ["miss", "hit", "pending"];

/** Counts keys by outcome and code, bytes, and the time of every call, and hands them to a sink. Wrap the whole stack of layers to see what its
 * callers see, or the backend alone to see what the storage does. */
export class MetricsLayer extends Layer {
  readonly #sink: MetricsSink;
  readonly #backend: string;
  #calls = 0;

  /** @param backend the label; default: the manifest's name. */
  constructor(inner: OffloadBackend, { sink, backend }: { sink: MetricsSink; backend?: string | undefined }) {
    super(inner);
    this.#sink = sink;
    this.#backend = backend ?? inner.manifest.name;
  }

  protected override async _open(context: AuthorContext): Promise<void> {
    this.onRemoved(({ count }, reason) => {
      this.#emit(() =>
        this.#sink.count("kvferry_backend_removed_blocks_total", { backend: this.#backend, reason }, count),
      );
    });
    await super._open(context);
  }

  protected override _lookup(keys: KeyBatch, options: AuthorOptions): Promise<Uint8Array> {
    return this.#timed(
      "lookup",
      () => this.inner.lookup(keys, options),
      (states) => this.#countedStates(states),
    );
  }

  protected override _lookupNow(keys: KeyBatch): Uint8Array | undefined {
    const startMs = performance.now();
    const states = super._lookupNow(keys);
    if (states === undefined) return undefined;
    this.#emit(() => {
      const labels = { backend: this.#backend, operation: "lookup", result: this.#countedStates(states) };
      this.#sink.observe("kvferry_backend_call_duration_seconds", labels, (performance.now() - startMs) / 1000);
    });
    return states;
  }

  protected override _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#timed(
      "store",
      () => this.inner.store(batch, options),
      (result) => this.#counted("store", result),
    );
  }

  protected override _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#timed(
      "load",
      () => this.inner.load(batch, options),
      (result) => this.#counted("load", result),
    );
  }

  protected override _remove(keys: KeyBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#timed(
      "remove",
      () => this.inner.remove(keys, options),
      (result) => this.#counted("remove", result),
    );
  }

  protected override _usage(): Promise<Usage> {
    return this.#timed(
      "usage",
      () => this.inner.usage(),
      () => "ok",
    );
  }

  /** The time of a scan is that of its pages, its reader's aside. */
  protected override async *_scan(options: AuthorScanOptions): AsyncGenerator<ScanPage> {
    const pages = super._scan(options)[Symbol.asyncIterator]();
    try {
      for (;;) {
        const page = await this.#timed(
          "scan",
          () => pages.next(),
          () => "ok",
        );
        if (page.done) return;
        this.#emit(() => this.#keys("scan", "listed", "", page.value.length));
        yield page.value;
      }
    } finally {
      await pages.return?.();
    }
  }

  async #timed<T>(operation: string, call: () => Promise<T>, count: (value: T) => string): Promise<T> {
    const startMs = performance.now();
    let result = "error";
    this.#inFlightChanged(1);
    try {
      const value = await call();
      this.#emit(() => {
        result = count(value);
      });
      return value;
    } catch (thrown) {
      const { code } = toKvferryError(thrown, operation);
      this.#emit(() =>
        this.#sink.count("kvferry_backend_errors_total", { backend: this.#backend, operation, code }, 1),
      );
      throw thrown;
    } finally {
      const seconds = (performance.now() - startMs) / 1000;
      const labels = { backend: this.#backend, operation, result };
      this.#emit(() => this.#sink.observe("kvferry_backend_call_duration_seconds", labels, seconds));
      this.#inFlightChanged(-1);
    }
  }

  #inFlightChanged(by: number): void {
    this.#calls += by;
    this.#emit(() => this.#sink.gauge("kvferry_backend_calls_in_flight", { backend: this.#backend }, this.#calls));
  }

  #countedStates(states: Uint8Array): string {
    const counts = [0, 0, 0];
    for (const state of states) counts[state] = (counts[state] ?? 0) + 1;
    for (const [state, count] of counts.entries()) {
      if (count > 0) this.#keys("lookup", LOOKUP_OUTCOMES[state] ?? `state_${state}`, "", count);
    }
    return "ok";
  }

  /** Counts each kind of outcome once; how the call as a whole has ended. */
  #counted(operation: string, { outcomes, codes }: BatchResult): string {
    const counts = new Map<number, number>();
    for (let i = 0; i < outcomes.length; i++) {
      const kind = ((outcomes[i] as number) & 7) * 256 + (codes[i] as number);
      counts.set(kind, (counts.get(kind) ?? 0) + 1);
    }
    let failed = 0;
    let moved = 0;
    for (const [kind, count] of counts) {
      const outcome = kind >> 8;
      const number = kind & 255;
      if (outcome === Outcome.FAILED) failed += count;
      if (outcome === Outcome.STORED || outcome === Outcome.LOADED) moved += count;
      this.#keys(operation, outcomeName(outcome).toLowerCase(), number === 0 ? "" : errorCodeOf(number), count);
    }
    if (moved > 0) {
      const bytes = moved * this.context.blockBytes;
      this.#sink.count("kvferry_backend_bytes_total", { backend: this.#backend, operation }, bytes);
    }
    return failed === 0 ? "ok" : failed === outcomes.length ? "failed" : "partial";
  }

  #keys(operation: string, outcome: string, code: string, count: number): void {
    this.#sink.count("kvferry_backend_keys_total", { backend: this.#backend, operation, outcome, code }, count);
  }

  /** A sink that throws must not cost a block. */
  #emit(emit: () => void): void {
    try {
      emit();
    } catch (err) {
      this.context.logger.debug({ err }, "the metrics sink has thrown");
    }
  }
}

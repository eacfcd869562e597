import { type BatchResult, type ErrorCode, outcomeName } from "@kvferry/core";
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";

export type Operation = "lookup" | "store" | "load";

const OPERATIONS: readonly Operation[] = ["lookup", "store", "load"];
const STATE_NAMES: readonly string[] = ["miss", "hit", "pending"];
const OUTCOMES_MAX = 256;
const SECONDS_BUCKETS: readonly number[] = [
  0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
];
const KEYS_BUCKETS: readonly number[] = [1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536];

/** Live numbers that are read when someone asks. */
export interface MetricSources {
  readonly tier: string;
  connections(): number;
  unanswered(): number;
  namespaces(): number;
  /** Blocks waiting for the data plane, by operation, and those being moved; undefined where the backend has no queue. */
  queue(): { readonly loads: number; readonly stores: number; readonly running: number } | undefined;
  /** State of each namespace's circuit breaker: 0 closed, 1 half-open, 2 open; the worst of them. */
  breaker(): number;
  usage(): Promise<{ readonly bytes: number; readonly blocks: number; readonly capacityBytes: number | undefined }>;
}

/** Counters as JSON, for the status. */
export interface CounterStatus {
  readonly operation: Operation;
  readonly requests: number;
  readonly failed: number;
  /** Keys by what became of them: hit, miss, stored, loaded … */
  readonly keys: Readonly<Record<string, number>>;
}

/** Plain numbers of one operation; Prometheus reads them when it scrapes, so that a request costs additions only. */
class OperationCounts {
  requests = 0;
  readonly failures: Map<ErrorCode, number> = new Map();
  readonly outcomes: Float64Array = new Float64Array(OUTCOMES_MAX);
}

/** What the server counts. One instance a server, with a registry of its own. */
export class ServerMetrics {
  readonly registry: Registry = new Registry();
  readonly #counts: Readonly<Record<Operation, OperationCounts>> = {
    lookup: new OperationCounts(),
    store: new OperationCounts(),
    load: new OperationCounts(),
  };
  readonly #seconds: Record<Operation, { observe(value: number): void }>;
  readonly #batchKeys: Record<Operation, { observe(value: number): void }>;
  readonly #refusals: Counter<"code">;
  readonly #connectionsTotal: Counter;
  #blockBytesStored = 0;
  #blockBytesLoaded = 0;

  constructor(sources: MetricSources) {
    const { registry } = this;
    const registers = [registry];
    const seconds = new Histogram({
      name: "kvferry_request_seconds",
      help: "From a request's arrival to its answer.",
      labelNames: ["operation"] as const,
      buckets: [...SECONDS_BUCKETS],
      registers,
    });
    const batchKeys = new Histogram({
      name: "kvferry_request_keys",
      help: "Keys in a request.",
      labelNames: ["operation"] as const,
      buckets: [...KEYS_BUCKETS],
      registers,
    });
    const children = (histogram: Histogram<"operation">): Record<Operation, { observe(value: number): void }> => ({
      lookup: histogram.labels("lookup"),
      store: histogram.labels("store"),
      load: histogram.labels("load"),
    });
    this.#seconds = children(seconds);
    this.#batchKeys = children(batchKeys);
    this.#refusals = new Counter({
      name: "kvferry_connections_refused_total",
      help: "Connections that the server ended, by error code.",
      labelNames: ["code"] as const,
      registers,
    });
    this.#connectionsTotal = new Counter({
      name: "kvferry_connections_total",
      help: "Connections accepted.",
      registers,
    });
    this.#registerCounts(sources.tier);
    this.#registerSources(sources);
    collectDefaultMetrics({ register: registry, prefix: "kvferry_" });
  }

  connected(): void {
    this.#connectionsTotal.inc();
  }

  /** A connection was ended by us. */
  refused(code: ErrorCode): void {
    this.#refusals.inc({ code });
  }

  /** A request was answered; `result` is its states or its outcomes. `blockBytes` moved for each key that ended well. */
  answered(
    operation: Operation,
    keys: number,
    seconds: number,
    result: Uint8Array | BatchResult,
    blockBytes = 0,
  ): void {
    const counts = this.#counts[operation];
    counts.requests++;
    const bytes = result instanceof Uint8Array ? result : result.outcomes;
    for (let i = 0; i < bytes.length; i++) (counts.outcomes[bytes[i] as number] as number)++;
    if (blockBytes > 0) this.#countBytes(operation, bytes, blockBytes);
    this.#seconds[operation].observe(seconds);
    this.#batchKeys[operation].observe(keys);
  }

  /** A request was answered with an error. */
  failed(operation: Operation, code: ErrorCode): void {
    const counts = this.#counts[operation];
    counts.requests++;
    counts.failures.set(code, (counts.failures.get(code) ?? 0) + 1);
  }

  status(): readonly CounterStatus[] {
    return OPERATIONS.map((operation) => {
      const { requests, failures, outcomes } = this.#counts[operation];
      const keys: Record<string, number> = {};
      outcomes.forEach((count, outcome) => {
        if (count > 0) keys[labelOf(operation, outcome)] = count;
      });
      return { operation, requests, failed: [...failures.values()].reduce((sum, each) => sum + each, 0), keys };
    });
  }

  #countBytes(operation: Operation, outcomes: Uint8Array, blockBytes: number): void {
    const wanted = operation === "store" ? 1 : 4; // Outcome.STORED, Outcome.LOADED
    let moved = 0;
    for (let i = 0; i < outcomes.length; i++) if (outcomes[i] === wanted) moved++;
    if (operation === "store") this.#blockBytesStored += moved * blockBytes;
    else this.#blockBytesLoaded += moved * blockBytes;
  }

  #registerCounts(tier: string): void {
    const registers = [this.registry];
    const counts = this.#counts;
    new Counter({
      name: "kvferry_requests_total",
      help: "Requests answered, by result: ok, or the error code.",
      labelNames: ["operation", "result"] as const,
      registers,
      collect() {
        this.reset();
        for (const operation of OPERATIONS) {
          const { requests, failures } = counts[operation];
          let failed = 0;
          for (const [code, count] of failures) {
            failed += count;
            this.inc({ operation, result: code }, count);
          }
          this.inc({ operation, result: "ok" }, requests - failed);
        }
      },
    });
    new Counter({
      name: "kvferry_blocks_total",
      help: "Keys answered, by what became of them.",
      labelNames: ["operation", "outcome", "tier"] as const,
      registers,
      collect() {
        this.reset();
        for (const operation of OPERATIONS) {
          counts[operation].outcomes.forEach((count, outcome) => {
            if (count > 0) this.inc({ operation, outcome: labelOf(operation, outcome), tier }, count);
          });
        }
      },
    });
    const corrupt = 6; // Outcome.CORRUPT
    new Counter({
      name: "kvferry_corrupt_blocks_total",
      help: "Blocks that did not verify; none of them reached an engine.",
      labelNames: ["tier"] as const,
      registers,
      collect() {
        this.reset();
        this.inc({ tier }, counts.load.outcomes[corrupt]);
      },
    });
    const moved = (): [Operation, number][] => [
      ["store", this.#blockBytesStored],
      ["load", this.#blockBytesLoaded],
    ];
    new Counter({
      name: "kvferry_moved_bytes_total",
      help: "Payload bytes moved to storage (store) and from it (load).",
      labelNames: ["operation", "tier"] as const,
      registers,
      collect() {
        this.reset();
        for (const [operation, bytes] of moved()) this.inc({ operation, tier }, bytes);
      },
    });
  }

  #registerSources(sources: MetricSources): void {
    const { tier } = sources;
    this.#gauge("kvferry_connections", "Connections open.", () => sources.connections());
    this.#gauge("kvferry_requests_unanswered", "Requests being worked on.", () => sources.unanswered());
    this.#gauge("kvferry_namespaces", "Namespaces open.", () => sources.namespaces());
    this.#gauge("kvferry_breaker_state", "Circuit breaker: 0 closed, 1 half-open, 2 open; the worst of all.", () =>
      sources.breaker(),
    );
    new Gauge({
      name: "kvferry_queue_blocks",
      help: "Blocks waiting for an I/O thread (loads, stores) and being moved (running).",
      labelNames: ["state", "tier"] as const,
      registers: [this.registry],
      collect() {
        for (const [state, blocks] of Object.entries(sources.queue() ?? {})) this.set({ state, tier }, blocks);
      },
    });
    const labelNames = ["tier"] as const;
    const registers = [this.registry];
    const bytes = new Gauge({ name: "kvferry_stored_bytes", help: "Bytes on storage.", labelNames, registers });
    const capacity = new Gauge({
      name: "kvferry_capacity_bytes",
      help: "Bytes allowed, all open namespaces together.",
      labelNames,
      registers,
    });
    new Gauge({
      name: "kvferry_stored_blocks",
      help: "Blocks on storage, in open namespaces.",
      labelNames,
      registers,
      async collect() {
        const usage = await sources.usage();
        this.set({ tier }, usage.blocks);
        bytes.set({ tier }, usage.bytes);
        if (usage.capacityBytes !== undefined) capacity.set({ tier }, usage.capacityBytes);
      },
    });
  }

  #gauge(name: string, help: string, read: () => number): void {
    new Gauge({
      name,
      help,
      registers: [this.registry],
      collect() {
        this.set(read());
      },
    });
  }
}

function labelOf(operation: Operation, outcome: number): string {
  if (operation === "lookup") return STATE_NAMES[outcome] ?? `state_${outcome}`;
  return outcomeName(outcome).toLowerCase();
}

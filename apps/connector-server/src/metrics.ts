import { type BatchResult, type CircuitState, type ErrorCode, outcomeName } from "@kvferry/core";
import { Counter, collectDefaultMetrics, Gauge, Histogram, type Registry } from "prom-client";
import type { TierRuntime } from "./storage/tier-runtime.js";

const OPERATIONS = ["lookup", "store", "load", "hold", "gather", "scatter"] as const;
/** What engines without direct mode ask for. */
const TIER_OPERATIONS = 3;

export type Operation = (typeof OPERATIONS)[number];

const STATE_NAMES: readonly string[] = ["miss", "hit", "pending"];
const CIRCUIT_STATES: readonly CircuitState[] = ["closed", "half-open", "open"];
const OUTCOMES_MAX = 256;
const SECONDS_BUCKETS: readonly number[] = [
  0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
];
const KEYS_BUCKETS: readonly number[] = [1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536];

/** Live numbers that are read when someone asks. */
export interface MetricSources {
  readonly tiers: readonly TierRuntime[];
  connections(): number;
  unanswered(): number;
  namespaces(): number;
  /** Of all tiers of all namespaces. */
  circuits(): readonly CircuitState[];
  /** What all open namespaces take of a tier. */
  usage(tier: string): Promise<{ readonly bytes: number; readonly blocks: number }>;
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
  readonly registry: Registry;
  readonly #counts: Readonly<Record<Operation, OperationCounts>> = ofEach(() => new OperationCounts());
  readonly #seconds: Record<Operation, { observe(value: number): void }>;
  readonly #batchKeys: Record<Operation, { observe(value: number): void }>;
  readonly #refusals: Counter<"code">;
  readonly #connectionsTotal: Counter;

  constructor(registry: Registry, sources: MetricSources) {
    this.registry = registry;
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
    this.#seconds = ofEach((operation) => seconds.labels(operation));
    this.#batchKeys = ofEach((operation) => batchKeys.labels(operation));
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
    this.#registerCounts();
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

  /** A request was answered; `result` is its states or its outcomes. */
  answered(operation: Operation, keys: number, seconds: number, result: Uint8Array | BatchResult): void {
    const counts = this.#counts[operation];
    counts.requests++;
    const bytes = result instanceof Uint8Array ? result : result.outcomes;
    for (let i = 0; i < bytes.length; i++) (counts.outcomes[bytes[i] as number] as number)++;
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
    const used = OPERATIONS.filter((each, i) => i < TIER_OPERATIONS || this.#counts[each].requests > 0);
    return used.map((operation) => {
      const { requests, failures, outcomes } = this.#counts[operation];
      const keys: Record<string, number> = {};
      outcomes.forEach((count, outcome) => {
        if (count > 0) keys[labelOf(operation, outcome)] = count;
      });
      return { operation, requests, failed: [...failures.values()].reduce((sum, each) => sum + each, 0), keys };
    });
  }

  #registerCounts(): void {
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
  }

  #registerSources(sources: MetricSources): void {
    this.#gauge("kvferry_connections", "Connections open.", () => sources.connections());
    this.#gauge("kvferry_requests_unanswered", "Requests being worked on.", () => sources.unanswered());
    this.#gauge("kvferry_namespaces", "Namespaces open.", () => sources.namespaces());
    this.#gauge("kvferry_breaker_state", "Circuit breaker: 0 closed, 1 half-open, 2 open; the worst of all.", () =>
      Math.max(0, ...sources.circuits().map((state) => CIRCUIT_STATES.indexOf(state))),
    );
    new Gauge({
      name: "kvferry_queue_blocks",
      help: "Blocks waiting for an I/O thread (loads, stores) and being moved (running).",
      labelNames: ["state", "tier"] as const,
      registers: [this.registry],
      collect() {
        for (const tier of sources.tiers) {
          for (const [state, blocks] of Object.entries(tier.queue() ?? {}))
            this.set({ state, tier: tier.name }, blocks);
        }
      },
    });
    this.#tierGauge(
      "kvferry_stored_blocks",
      "Blocks in the tier, of open namespaces.",
      sources,
      async ({ name }) => (await sources.usage(name)).blocks,
    );
    this.#tierGauge(
      "kvferry_stored_bytes",
      "Bytes in the tier, of open namespaces.",
      sources,
      async ({ name }) => (await sources.usage(name)).bytes,
    );
    const capacityHelp = "Bytes that the tier may take.";
    this.#tierGauge("kvferry_capacity_bytes", capacityHelp, sources, async (tier) => tier.capacityBytes);
    this.#tierFacts(sources.tiers);
  }

  #tierGauge(
    name: string,
    help: string,
    { tiers }: Pick<MetricSources, "tiers">,
    read: (tier: TierRuntime) => Promise<number | undefined>,
  ): void {
    new Gauge({
      name,
      help,
      labelNames: ["tier"] as const,
      registers: [this.registry],
      async collect() {
        for (const tier of tiers) {
          const value = await read(tier);
          if (value !== undefined) this.set({ tier: tier.name }, value);
        }
      },
    });
  }

  /** What a tier alone can know; read when somebody asks. */
  #tierFacts(tiers: readonly TierRuntime[]): void {
    const help = "Of the tier alone; see docs/operations.md.";
    const namesOf = (read: (tier: TierRuntime) => object) => new Set(tiers.flatMap((tier) => Object.keys(read(tier))));
    for (const fact of namesOf((tier) => tier.gauges())) {
      this.#tierGauge(`kvferry_${fact}`, help, { tiers }, async (tier) => tier.gauges()[fact]);
    }
    for (const fact of namesOf((tier) => tier.counters())) {
      new Counter({
        name: `kvferry_${fact}`,
        help,
        labelNames: ["tier"] as const,
        registers: [this.registry],
        collect() {
          this.reset();
          for (const tier of tiers) {
            const value = tier.counters()[fact];
            if (value !== undefined) this.inc({ tier: tier.name }, value);
          }
        },
      });
    }
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

function ofEach<T>(make: (operation: Operation) => T): Record<Operation, T> {
  return Object.fromEntries(OPERATIONS.map((operation) => [operation, make(operation)])) as Record<Operation, T>;
}

function labelOf(operation: Operation, outcome: number): string {
  if (operation === "lookup") return STATE_NAMES[outcome] ?? `state_${outcome}`;
  return outcomeName(outcome).toLowerCase();
}

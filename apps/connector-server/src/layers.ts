import {
  BACKEND_METRICS,
  CircuitBreakerLayer,
  type CircuitState,
  DeadlineLayer,
  IntegrityLayer,
  LimitLayer,
  type MetricLabels,
  MetricsLayer,
  type MetricsSink,
  type OffloadBackend,
  RetryLayer,
  TIER_METRICS,
} from "@kvferry/core";
import { crc32c } from "@kvferry/native";
import { Counter, Gauge, Histogram, type Registry } from "prom-client";

const LOOKUP_DEADLINE_MS = 5_000;
const USAGE_DEADLINE_MS = 5_000;
const BYTES_MAX = 2 ** 30;
const QUEUE_DEPTH_MAX = 4_096;
/** Between two looks at a tier that has failed: blocks are to be hits again a few seconds after it is back, and a look costs one call. */
const BREAKER_OPEN_MS = 2000;

/** A tier's backend with the layers that belong to it. */
export interface LayeredBackend {
  readonly backend: OffloadBackend;
  circuit(): CircuitState;
}

export interface TierLayersConfig {
  /** Ms that a store or load may take here. */
  readonly deadlineMs: number;
  /** Counts this tier apart from the others, under this name. */
  readonly name?: string;
  readonly sink?: MetricsSink;
}

/**
 * The layers around one tier of a namespace, from the outside in:
 *
 * - **metrics** where there are several tiers: what each of them is asked and answers.
 * - **circuit breaker** outside of retry: it judges what is left after the retries, and while it is open nothing is retried.
 * - **retry** outside of the deadline of an attempt; the deadline of the whole call comes with the call, and ends the retries.
 * - **deadline** is next to the backend: it knows whether a call can be left alone without its I/O touching a slot later, and
 *   bounds lookups, which have no deadline of their own.
 * - **integrity** where the backend does not verify its payloads: a retry reads such a block anew.
 */
export function withTierLayers(inner: OffloadBackend, { deadlineMs, name, sink }: TierLayersConfig): LayeredBackend {
  const verified = inner.manifest.capabilities.verifiesPayload
    ? inner
    : new IntegrityLayer(inner, { checksum: crc32c });
  const timely = new DeadlineLayer(verified, {
    lookupMs: LOOKUP_DEADLINE_MS,
    usageMs: USAGE_DEADLINE_MS,
    storeMs: deadlineMs,
    loadMs: deadlineMs,
  });
  const breaker = new CircuitBreakerLayer(new RetryLayer(timely), { openMs: BREAKER_OPEN_MS });
  const backend = sink === undefined ? breaker : new MetricsLayer(breaker, { sink, backend: name });
  return { backend, circuit: () => breaker.circuit };
}

export interface CallLayersConfig {
  /** Stores and loads that are worked on at a time. */
  readonly operationsMax: number;
  /** What the metrics call it. */
  readonly name: string;
  readonly sink: MetricsSink;
}

/**
 * The layers around all tiers of a namespace:
 *
 * - **metrics** see what engines see: waiting, refusals and retries included.
 * - **limit** comes before the breakers, so that a call that waits long in the queue asks them when its turn comes, and so that
 *   an open circuit empties the queue at once.
 */
export function withCallLayers(inner: OffloadBackend, { operationsMax, name, sink }: CallLayersConfig): OffloadBackend {
  const limited = new LimitLayer(inner, {
    callsMax: operationsMax,
    bytesMax: BYTES_MAX,
    queueDepthMax: QUEUE_DEPTH_MAX,
  });
  return new MetricsLayer(limited, { sink, backend: name });
}

interface Instruments {
  readonly counters: Map<string, Counter>;
  readonly histograms: Map<string, Histogram>;
  readonly gauges: Map<string, Gauge>;
}

/** Registers the backends' metrics; returns a function that makes a sink for each namespace's stack of layers. Their gauges are
 * added up, since the stacks share their labels. */
export function backendMetrics(registry: Registry): () => MetricsSink {
  const instruments = register(registry);
  return () => {
    const own = new Map<string, number>();
    return {
      count: (name, labels, value) => instruments.counters.get(name)?.inc({ ...labels }, value),
      observe: (name, labels, value) => instruments.histograms.get(name)?.observe({ ...labels }, value),
      gauge(name, labels, value) {
        const key = `${name} ${Object.values(labels).join(" ")}`;
        instruments.gauges.get(name)?.inc(labels as MetricLabels, value - (own.get(key) ?? 0));
        own.set(key, value);
      },
    };
  };
}

function register(registry: Registry): Instruments {
  const instruments: Instruments = { counters: new Map(), histograms: new Map(), gauges: new Map() };
  for (const { name, type, help, labelNames, buckets } of [...BACKEND_METRICS, ...TIER_METRICS]) {
    const options = { name, help, labelNames: [...labelNames], registers: [registry] };
    if (type === "counter") instruments.counters.set(name, new Counter(options));
    else if (type === "gauge") instruments.gauges.set(name, new Gauge(options));
    else instruments.histograms.set(name, new Histogram({ ...options, ...(buckets && { buckets: [...buckets] }) }));
  }
  return instruments;
}

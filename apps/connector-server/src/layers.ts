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
} from "@kvferry/core";
import { crc32c } from "@kvferry/native";
import { Counter, Gauge, Histogram, type Registry } from "prom-client";

const LOOKUP_DEADLINE_MS = 5_000;
const USAGE_DEADLINE_MS = 5_000;
const BYTES_MAX = 2 ** 30;
const QUEUE_DEPTH_MAX = 4_096;

export interface LayersConfig {
  /** Stores and loads that the backend works on at a time. */
  readonly operationsMax: number;
  readonly sink: MetricsSink;
}

export interface LayeredBackend {
  readonly backend: OffloadBackend;
  circuit(): CircuitState;
}

/**
 * The layers around a namespace's backend, from the outside in:
 *
 * - **metrics** see what engines see: waiting, refusals and retries included.
 * - **limit** comes before the breaker, so that a call that waits long in the queue asks the breaker when its turn comes, and so that
 *   an open circuit empties the queue at once.
 * - **circuit breaker** outside of retry: it judges what is left after the retries, and while it is open nothing is retried.
 * - **retry** outside of the deadline of an attempt; the deadline of the whole call comes with the call (`deadlineMs` of the
 *   tier), holds for the wait in the queue too, and ends the retries.
 * - **deadline** is next to the backend: it knows whether a call can be left alone without its I/O touching a slot later, and
 *   bounds lookups, which have no deadline of their own.
 * - **integrity** where the backend does not verify its payloads: a retry reads such a block anew.
 */
export function withLayers(inner: OffloadBackend, { operationsMax, sink }: LayersConfig): LayeredBackend {
  const verified = inner.manifest.capabilities.verifiesPayload
    ? inner
    : new IntegrityLayer(inner, { checksum: crc32c });
  const timely = new DeadlineLayer(verified, { lookupMs: LOOKUP_DEADLINE_MS, usageMs: USAGE_DEADLINE_MS });
  const breaker = new CircuitBreakerLayer(new RetryLayer(timely));
  const limited = new LimitLayer(breaker, {
    callsMax: operationsMax,
    bytesMax: BYTES_MAX,
    queueDepthMax: QUEUE_DEPTH_MAX,
  });
  return { backend: new MetricsLayer(limited, { sink }), circuit: () => breaker.circuit };
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
  for (const { name, type, help, labelNames, buckets } of BACKEND_METRICS) {
    const options = { name, help, labelNames: [...labelNames], registers: [registry] };
    if (type === "counter") instruments.counters.set(name, new Counter(options));
    else if (type === "gauge") instruments.gauges.set(name, new Gauge(options));
    else instruments.histograms.set(name, new Histogram({ ...options, ...(buckets && { buckets: [...buckets] }) }));
  }
  return instruments;
}

import {
  CircuitBreakerLayer,
  DeadlineLayer,
  IntegrityLayer,
  LimitLayer,
  MetricsLayer,
  type OffloadBackend,
  RetryLayer,
} from "@kvferry/core";
import { describe, it } from "vitest";
import { conformance } from "../src/index.js";
import { memoryStack } from "./memory-damage.js";

const sink = { count() {}, observe() {}, gauge() {} };
const deadlines = {
  openMs: 5000,
  lookupMs: 5000,
  loadMs: 5000,
  storeMs: 5000,
  removeMs: 5000,
  usageMs: 5000,
  closeMs: 5000,
};

const integrity = (inner: OffloadBackend): OffloadBackend => new IntegrityLayer(inner);
const tightIntegrity = (inner: OffloadBackend): OffloadBackend => new IntegrityLayer(inner, { stagingBytesMax: 1 });
const deadline = (inner: OffloadBackend): OffloadBackend => new DeadlineLayer(inner, deadlines);
const retry = (inner: OffloadBackend): OffloadBackend => new RetryLayer(inner, { backoffMs: 1 });
const breaker = (inner: OffloadBackend): OffloadBackend => new CircuitBreakerLayer(inner);
const metrics = (inner: OffloadBackend): OffloadBackend => new MetricsLayer(inner, { sink });
const limit = (inner: OffloadBackend): OffloadBackend => new LimitLayer(inner, { callsMax: 4, bytesMax: 2 ** 20 });

const stacks: Readonly<Record<string, readonly ((inner: OffloadBackend) => OffloadBackend)[]>> = {
  faulty: [],
  integrity: [integrity],
  "integrity with room for one block": [tightIntegrity],
  deadline: [deadline],
  retry: [retry],
  "circuit breaker": [breaker],
  metrics: [metrics],
  limit: [limit],
  "all layers": [integrity, limit, deadline, retry, breaker, metrics],
  "all layers, the other way round": [metrics, breaker, retry, deadline, limit, integrity],
};

for (const [name, layers] of Object.entries(stacks)) {
  const wrap = (inner: OffloadBackend): OffloadBackend => layers.reduce((below, layer) => layer(below), inner);
  conformance({ name, test: { describe, it }, factory: memoryStack({ wrap }) });
}

conformance({
  name: "all layers over a backend that is not abandonable",
  test: { describe, it },
  factory: memoryStack({
    wrap: (inner) => metrics(breaker(retry(deadline(limit(integrity(inner)))))),
    capabilities: { abandonable: false },
  }),
});

import type { NamespaceFields } from "@kvferry/core";
import type { ClientMessage, HelloMessage, ServerMessage } from "../src/index.js";

export const namespace: NamespaceFields = {
  model: "facebook/opt-125m",
  weights: "00112233445566778899aabbccddeeff",
  dtype: "bfloat16",
  kvDtype: "auto",
  layout: "vllm-chunk-1",
  tokensPerHash: 16,
  blocksPerChunk: 1,
  groups: [{ tokensPerBlock: 16, layers: ["model.layers.0.attn", "model.layers.1.attn"] }],
  parallel: { tp: 1, pp: 1, pcp: 1, dcp: 1, rank: 0 },
  engine: "vllm",
  engineVersion: "0.31.0",
  formatVersion: 1,
  tenant: "",
};

export const hello: HelloMessage = {
  t: "hello",
  version: 1,
  client: { name: "test", version: "1.0.0", instance: "a" },
  namespace,
  keyBytes: 36,
  blockBytes: 65_536,
  regions: [{ bytes: 2 ** 40, path: "/dev/shm/region" }],
  fragments: [{ region: 0, offset: 0, stride: 65_536, bytes: 65_536 }],
  slots: 1024,
  vllmFs: { base: "facebook_opt-125m_0123456789ab", rank: 0, config: "{}" },
  events: true,
};

const bytes = (count: number): Uint8Array => Uint8Array.from({ length: count }, (_, i) => (i * 37) & 0xff);

/** One of each. */
export const clientMessages: readonly ClientMessage[] = [
  hello,
  { ...hello, vllmFs: null, regions: [{ bytes: 65_536 * 1024 }], events: false },
  { t: "lookup", id: 1, keys: bytes(36 * 300) },
  { t: "store", id: 2 ** 32 - 1, keys: bytes(72), slots: Uint32Array.of(0, 2 ** 32 - 1) },
  { t: "load", id: 0, keys: bytes(36), slots: Uint32Array.of(7) },
  { t: "cancel", id: 3, target: 2 },
  { t: "ping", id: 4 },
  { t: "warm", version: 1, bytes: null, rate: null, namespace: "" },
  { t: "warm", version: 1, bytes: 2 ** 40, rate: 2 ** 30, namespace: "0a1b" },
];

/** One of each. */
export const serverMessages: readonly ServerMessage[] = [
  {
    t: "welcome",
    version: 1,
    server: { name: "kvferry", version: "0.1.0", pid: 12 },
    digest: "ab".repeat(32),
    requestsMax: 64,
    batchKeysMax: 4096,
  },
  { t: "states", id: 1, states: bytes(300) },
  { t: "done", id: 2, outcomes: bytes(2), codes: bytes(2), us: 12_345 },
  { t: "done", id: 2, outcomes: bytes(0), codes: bytes(0), us: 2 ** 40 },
  { t: "pong", id: 4 },
  {
    t: "warming",
    done: false,
    state: "loading",
    ms: 2 ** 33,
    counts: { loadedBlocks: 3, loadedBytes: 2 ** 40 },
    tiers: { memory: 3 },
  },
  { t: "removed", keys: bytes(36), reason: "evicted" },
  { t: "drain" },
  { t: "error", id: 9, code: "BUSY", message: "too many", context: { field: "keys", most: 5, yes: true } },
  { t: "error", code: "INVALID_ARGUMENT", message: "namespace field 'model' is missing", context: {} },
];

import type { NamespaceFields } from "@kvferry/core";
import type { ClientMessage, DirectHelloMessage, DirectWorker, HelloMessage, ServerMessage } from "../src/index.js";

function bytes(count: number): Uint8Array {
  return Uint8Array.from({ length: count }, (_, i) => (i * 37) & 0xff);
}

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

const { regions: _regions, fragments: _fragments, slots: _slots, ...helloFields } = hello;
const engine = { engine: "host-1:4711", parts: 2, partBytes: 32_768 };

const schedulerHello: DirectHelloMessage = { ...helloFields, direct: { role: "scheduler", ...engine, workers: 2 } };

export const worker: DirectWorker = {
  role: "worker",
  ...engine,
  part: 1,
  stores: true,
  memory: { kind: "process", memories: [{ address: 2 ** 46 + 4096, bytes: 2 ** 33 }] },
  tensors: [
    { memory: 0, offset: 0, strideBytes: 4096, pageBytes: 4096, pages: 1000 },
    { memory: 0, offset: 2 ** 32, strideBytes: 8192, pageBytes: 4096, pages: 2 ** 32 - 1 },
  ],
  groups: [[{ tensor: 0, bytes: 4096 }], [{ tensor: 1, bytes: 2048 }], []],
  blocksPerChunk: 4,
};

export const workerHello: DirectHelloMessage = { ...helloFields, direct: worker };

/** One of each. */
export const clientMessages: readonly ClientMessage[] = [
  hello,
  schedulerHello,
  workerHello,
  {
    ...helloFields,
    direct: {
      ...worker,
      stores: false,
      memory: {
        kind: "cuda",
        uuid: bytes(16),
        memories: [{ handle: bytes(64), offset: 2 ** 40, bytes: 2 ** 35 }],
      },
    },
  },
  { ...helloFields, direct: { ...worker, memory: { kind: "region", memories: [{ bytes: 2 ** 35 }, { bytes: 1 }] } } },
  { t: "hold", id: 5, keys: bytes(36 * 3) },
  { t: "release", keys: bytes(36 * 3) },
  {
    t: "gather",
    id: 6,
    ticket: 2 ** 32 - 1,
    keys: bytes(72),
    groups: Uint32Array.of(0, 1),
    blocks: Uint32Array.of(1, 2, 3, 2 ** 32 - 1, 5, 6, 7, 8),
  },
  { t: "scatter", id: 7, keys: bytes(36), groups: Uint32Array.of(2), blocks: Uint32Array.of(0, 1, 2, 3) },
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
  {
    t: "welcome",
    version: 1,
    server: { name: "kvferry", version: "0.1.0", pid: 12 },
    digest: "ab".repeat(32),
    requestsMax: 64,
    batchKeysMax: 4096,
    direct: { instance: "5d0c", arenaBytes: 2 ** 36 },
  },
  { t: "states", id: 1, states: bytes(300) },
  { t: "held", id: 3, outcomes: bytes(3), codes: bytes(3), offsets: Float64Array.of(0, 4096, 2 ** 40 + 64), us: 7 },
  { t: "stored", ticket: 9, outcomes: bytes(2), codes: bytes(2) },
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

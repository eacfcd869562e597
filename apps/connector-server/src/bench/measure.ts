import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type KeyBatch, type NamespaceFields, packedKeys } from "@kvferry/core";
import { createRegion } from "@kvferry/native";
import { KvferryClient } from "@kvferry/protocol";
import { startServer } from "../server.js";
import type { TierConfig } from "../storage/tier-config.js";
import { fillRandom, KEY_BYTES, markBlocks, quantile, requireMoved } from "./sample-blocks.js";

const MIB = 2 ** 20;
/** A region has so many bytes at most: what an engine has under way. */
const REGION_BYTES_MAX = 128 * MIB;
const BATCH_BLOCKS_MAX = 64;
const LOOKUP_KEYS = 256;
const LOOKUPS = 64;

export interface BenchOptions {
  readonly tier: TierConfig;
  readonly blockBytes: readonly number[];
  /** Stored and loaded at each size. */
  readonly bytes: number;
  readonly signal?: AbortSignal | undefined;
  onStep?(done: number, step: string): void;
}

export interface BenchRow {
  readonly blockBytes: number;
  readonly storeBytesPerSecond: number;
  readonly loadBytesPerSecond: number;
  /** A request for 256 keys, half were no slower. */
  readonly lookupHitUs: number;
  readonly lookupMissUs: number;
}

/** Stores, looks up and loads blocks through a server of its own, as an engine does: over a socket, from and into shared memory. Loads come after all stores,
 * so that a page cache helps as little as it can. */
export async function measure({ tier, blockBytes, bytes, signal, onStep }: BenchOptions): Promise<BenchRow[]> {
  const folder = await mkdtemp(join(tmpdir(), "kvferry-bench-"));
  try {
    const server = await startServer({ socket: join(folder, "s"), http: "off", tiers: [tier] });
    try {
      const rows: BenchRow[] = [];
      for (const [i, each] of blockBytes.entries()) {
        signal?.throwIfAborted();
        const step = (share: number, what: string): void =>
          onStep?.((100 * (i + share)) / blockBytes.length, `${each / 1024} KiB: ${what}`);
        rows.push(await measureSize(server.socket, each, bytes, step, signal));
      }
      return rows;
    } finally {
      await server.close();
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function measureSize(
  socket: string,
  blockBytes: number,
  bytes: number,
  step: (share: number, what: string) => void,
  signal: AbortSignal | undefined,
): Promise<BenchRow> {
  const slots = Math.max(1, Math.min(BATCH_BLOCKS_MAX, Math.floor(REGION_BYTES_MAX / blockBytes)));
  const region = createRegion({ rows: slots, rowBytes: blockBytes });
  const client = await KvferryClient.connect({
    socket,
    namespace: namespaceOf(blockBytes),
    keyBytes: KEY_BYTES,
    region,
  });
  try {
    fillRandom(region);
    const batches = Array.from({ length: Math.max(1, Math.ceil(bytes / blockBytes / slots)) }, () => randomKeys(slots));
    const all = Uint32Array.from({ length: slots }, (_, i) => i);
    const move = async (what: "store" | "load"): Promise<number> => {
      let ms = 0;
      for (const [i, keys] of batches.entries()) {
        signal?.throwIfAborted();
        step((i / batches.length + (what === "load" ? 1 : 0)) / 2, what);
        if (what === "store") markBlocks(region, keys.bytes);
        const startMs = performance.now();
        const result = await client[what](keys, all);
        ms += performance.now() - startMs;
        requireMoved(what, result);
      }
      return (blockBytes * slots * batches.length * 1000) / ms;
    };
    const storeBytesPerSecond = await move("store");
    const stored = packedKeys(Buffer.concat(batches.map((keys) => keys.bytes)), KEY_BYTES);
    const lookupHitUs = await lookupUs(client, () => sample(stored));
    const lookupMissUs = await lookupUs(client, () => randomKeys(LOOKUP_KEYS));
    return { blockBytes, storeBytesPerSecond, loadBytesPerSecond: await move("load"), lookupHitUs, lookupMissUs };
  } finally {
    await client.close();
    region.close();
  }
}

async function lookupUs(client: KvferryClient, keys: () => KeyBatch): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < LOOKUPS; i++) {
    const asked = keys();
    const startMs = performance.now();
    await client.lookup(asked);
    times.push((performance.now() - startMs) * 1000);
  }
  return quantile(times, 0.5);
}

function namespaceOf(blockBytes: number): NamespaceFields {
  return {
    ...{ model: "kvferry-bench", weights: randomBytes(16).toString("hex"), dtype: "bfloat16", kvDtype: "auto" },
    ...{ layout: `bench-${blockBytes}`, tokensPerHash: 16, blocksPerChunk: 1 },
    groups: [{ tokensPerBlock: 16, layers: ["bench"] }],
    ...{ parallel: null, engine: "kvferry-bench", engineVersion: "1", formatVersion: 1, tenant: "" },
  };
}

function randomKeys(count: number): KeyBatch {
  return packedKeys(randomBytes(count * KEY_BYTES), KEY_BYTES);
}

/** So many keys of these from some place on. */
function sample({ bytes, count }: KeyBatch): KeyBatch {
  const many = Math.min(LOOKUP_KEYS, count);
  const first = Math.floor(Math.random() * (count - many + 1));
  return packedKeys(bytes.subarray(first * KEY_BYTES, (first + many) * KEY_BYTES), KEY_BYTES);
}

// Blocks and backends of the tests on real NFS.
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { NfsBackend, parseMountStats } from "@kvferry/backend-nfs";
import { createMemoryRegion, createNamespace, packKeys } from "@kvferry/core";

export const BLOCK_BYTES = 4096;
export const KEY_BYTES = 36;
export const FILE_BYTES = 2 * BLOCK_BYTES;

export const namespace = createNamespace({
  ...{ model: "m", weights: "00".repeat(32), dtype: "bfloat16", kvDtype: "bfloat16", layout: "direct" },
  ...{ tokensPerHash: 16, blocksPerChunk: 1, groups: [{ tokensPerBlock: 16, layers: ["layer.0"] }] },
  ...{ parallel: null, engine: "guest", engineVersion: "1", formatVersion: 1, tenant: "" },
});

/** Key `number`: a hash, as engines have them, and group 0. */
function keyOf(number) {
  const key = new Uint8Array(KEY_BYTES);
  key.set(createHash("sha256").update(`block ${number}`).digest());
  return key;
}

export function keysOf(first, count) {
  return packKeys(
    Array.from({ length: count }, (_, i) => keyOf(first + i)),
    KEY_BYTES,
  );
}

/** Each block is filled with a byte that its number tells. */
export const byteOf = (number) => (number % 251) + 1;

/** The blocks `first` to `first + count - 1`, ready to be stored. */
export function batchOf(first, count) {
  const region = createMemoryRegion(count, BLOCK_BYTES);
  for (let i = 0; i < count; i++) region.bytes.fill(byteOf(first + i), i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES);
  return { keys: keysOf(first, count), region, slots: Uint32Array.from({ length: count }, (_, i) => i) };
}

/** Whether row `i` of a batch that begins with block `first` holds that block. */
export function isRight({ region }, first, i) {
  const row = region.bytes.subarray(i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES);
  return row.every((byte) => byte === byteOf(first + i));
}

/** One folder as two clients see it, `/run/nfs/c1<version>/NAME` and c2's. */
export function twoRoots(version) {
  const one = mkdtempSync(join("/run/nfs", `c1${version}`, "roots-"));
  return [one, join(dirname(dirname(one)), `c2${version}`, basename(one))];
}

export async function openBackend(root, config = {}) {
  const backend = new NfsBackend({ root, ...config });
  await backend.open({ namespace, keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES });
  return backend;
}

/** What a client has sent, by kind of request. */
export function requestsOf(client, version) {
  const all = parseMountStats(readFileSync("/proc/self/mountstats", "utf8"));
  const { operations } = all.find(({ mountPoint }) => mountPoint === `/run/nfs/${client}${version}`);
  return new Map([...operations].map(([name, { requests }]) => [name, requests]));
}

/** Runs it and tells what the client has sent meanwhile: kinds, and `total`. */
export async function counted(client, version, run) {
  const before = requestsOf(client, version);
  const startedMs = performance.now();
  const value = await run();
  const ms = performance.now() - startedMs;
  const sent = {};
  let total = 0;
  for (const [name, requests] of requestsOf(client, version)) {
    const more = requests - (before.get(name) ?? 0);
    if (more > 0) sent[name] = more;
    total += more;
  }
  return { value, sent, total, ms: Math.round(ms) };
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export const count = (values, wanted) => values.reduce((sum, value) => sum + (value === wanted ? 1 : 0), 0);

/** A line for whoever reads the suite's output. */
export function tell(what, facts) {
  console.log(`# ${what}: ${JSON.stringify(facts)}`);
}

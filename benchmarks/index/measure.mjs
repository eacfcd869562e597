// One part of `npm run bench:index`, in a process of its own so that memory is its own: prints JSON.
import { monitorEventLoopDelay } from "node:perf_hooks";
import { setImmediate, setTimeout } from "node:timers/promises";
import { PersistentIndex, PrefixIndex } from "@kvferry/core";
import { KEY_BYTES, mixedKeys, numbers, REQUEST_BLOCKS, requestKeys } from "./workload.mjs";

const BLOCK_BYTES = 1 << 20;
/** Requests of which lookups draw their keys: 262,144 blocks. */
const SAMPLED_REQUESTS = 256;
const BATCHES = 64;
const ROUNDS = 5;
/** Nothing is snapshotted before it is asked for. */
const LOG_BYTES_MAX = 2 ** 40;
const FLUSH_REQUESTS = 64;

const { part, blocks, folder } = JSON.parse(process.argv[2]);
const requests = Math.ceil(blocks / REQUEST_BLOCKS);
const rows = new Int32Array(REQUEST_BLOCKS);

function insert(index, request) {
  const keys = requestKeys(request);
  return timed(() => index.insert(keys, { tier: 1, bytes: BLOCK_BYTES, nowMs: request }, rows));
}

/** Seconds of CPU that this process has used: what the machine does besides does not count. */
function cpuSeconds() {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

/** Median over rounds of keys a second of CPU; `each` gives milliseconds. */
function rate(batches, each) {
  const rates = [];
  for (let round = 0; round < ROUNDS; round++) {
    let ms = 0;
    for (const keys of batches) ms += each(keys);
    rates.push((1000 * batches.length * REQUEST_BLOCKS) / ms);
  }
  return rates.sort((a, b) => a - b)[ROUNDS >> 1];
}

function timed(call) {
  const begin = cpuSeconds();
  call();
  return 1000 * (cpuSeconds() - begin);
}

async function memory() {
  for (let i = 0; i < 3; i++) {
    globalThis.gc();
    await setTimeout(50); // buffers are given back on the side
  }
  const { rss, external, heapUsed } = process.memoryUsage();
  return { rss, used: external + heapUsed };
}

async function lookups() {
  requestKeys(0);
  const before = await memory();
  const index = new PrefixIndex({ keyBytes: KEY_BYTES });
  const calls = [];
  for (let request = 0; request < requests; request++) {
    calls.push(insert(index, request));
    if (request % FLUSH_REQUESTS === 0) await setImmediate();
  }
  const after = await memory();
  const draw = numbers(1);
  const sampled = Array.from({ length: SAMPLED_REQUESTS }, () => requestKeys(draw() % requests));
  const mixed = Array.from({ length: BATCHES }, (_, i) => mixedKeys(sampled, i));
  const absent = Array.from({ length: BATCHES }, (_, i) => requestKeys(requests + i));
  let found = 0;
  const find = (keys) =>
    timed(() => {
      found += index.findMany(keys, rows);
    });
  const measured = {
    blocks: index.size,
    bytesPerBlock: index.memoryBytes / index.size,
    heapBytesPerBlock: (after.used - before.used) / index.size,
    rssBytesPerBlock: (after.rss - before.rss) / index.size,
    insertPerSecond: (1000 * index.size) / calls.reduce((sum, ms) => sum + ms),
    slowestInsertMs: Math.max(...calls),
    findRandomHitsPerSecond: rate(mixed, find),
    findRequestHitsPerSecond: rate(sampled, find),
    findMissesPerSecond: rate(absent, find),
    longestPrefixKeysPerSecond: rate(sampled, (keys) => timed(() => index.longestPrefix(keys))),
    touchPerSecond: rate(mixed, (keys) => {
      index.findMany(keys, rows);
      return timed(() => index.touch(rows, 1e9));
    }),
  };
  const expected = ROUNDS * REQUEST_BLOCKS * (SAMPLED_REQUESTS + BATCHES);
  if (found !== expected) throw new Error(`found ${found} blocks, not ${expected}`);
  return measured;
}

function open() {
  return PersistentIndex.open({
    folder,
    keyBytes: KEY_BYTES,
    identity: Uint8Array.of(1),
    flushIntervalMs: 0,
    logBytesMax: LOG_BYTES_MAX,
  });
}

async function log() {
  const opened = await open();
  const begin = performance.now();
  for (let request = 0; request < requests; request++) {
    insert(opened.index, request);
    if (request % FLUSH_REQUESTS === 0) await opened.flush();
  }
  await opened.close();
  return { seconds: (performance.now() - begin) / 1000, bytes: opened.status().logBytes };
}

/** How long until the first answer. */
async function recover() {
  const [begin, cpuBegin] = [performance.now(), cpuSeconds()];
  const opened = await open();
  const there = opened.index.longestPrefix(requestKeys(requests >> 1));
  const seconds = (performance.now() - begin) / 1000;
  const measured = { ...opened.recovery, seconds, cpuSeconds: cpuSeconds() - cpuBegin };
  if (there !== REQUEST_BLOCKS || opened.index.size < blocks) throw new Error("the index is not what it was");
  return { opened, measured };
}

async function fromLog() {
  const { opened, measured } = await recover();
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  const begin = performance.now();
  let done = false;
  const writing = opened.snapshot().then(() => {
    done = true;
  });
  let changes = 0;
  for (let request = 0; !done; request++) {
    opened.index.findMany(requestKeys(request % requests), rows);
    opened.index.touch(rows, 1e9);
    changes += REQUEST_BLOCKS;
    await opened.flush();
  }
  await writing;
  const seconds = (performance.now() - begin) / 1000;
  delay.disable();
  const snapshot = { seconds, bytes: opened.status().snapshotBytes, longestPauseMs: delay.max / 1e6, changes };
  await opened.close();
  return { recovery: measured, snapshot };
}

async function fromSnapshot() {
  const { opened, measured } = await recover();
  await opened.close();
  return measured;
}

const parts = { lookups, log, fromLog, fromSnapshot };
process.stdout.write(JSON.stringify(await parts[part]()));

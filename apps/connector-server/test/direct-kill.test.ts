import { randomInt } from "node:crypto";
import { readSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type KeyBatch, keyAt, LookupState, Outcome } from "@kvferry/core";
import { closeFd, createRegion, type MappedRegion } from "@kvferry/native";
import { type Chunks, DirectSchedulerClient, DirectWorkerClient } from "@kvferry/protocol";
import { describe, expect, it, onTestFinished } from "vitest";
import { serveConfig } from "./child-server.js";
import { addressOfSharedMemory } from "./direct-address.js";
import { type EngineIdentity, MiB, metricOf, newEngine, serveDirect } from "./direct-helpers.js";
import { WorkerProcess } from "./direct-worker-process.js";
import { openDescriptors, randomKeys, range, scratch, until } from "./helpers.js";

const ROUNDS = process.env.KVFERRY_LONG ? 100 : 10;
const TIMEOUT_MS = ROUNDS * 60_000;
/** One part, large enough that a kill comes in the middle of it. */
const PAGE_BYTES = 128 * 1024;
const BLOCKS_PER_CHUNK = 4;
const CHUNK_BYTES = PAGE_BYTES * BLOCKS_PER_CHUNK;
const CHUNKS = 48;
const MEMORY_BYTES = CHUNK_BYTES * CHUNKS;
const ARENA_BYTES = 64 * MiB;
const layout = {
  tensors: [{ memory: 0, offset: 0, strideBytes: PAGE_BYTES, pageBytes: PAGE_BYTES, pages: CHUNKS * BLOCKS_PER_CHUNK }],
  groups: [[{ tensor: 0, bytes: PAGE_BYTES }]],
  blocksPerChunk: BLOCKS_PER_CHUNK,
};
const shape = { parts: 1, partBytes: CHUNK_BYTES, blockBytes: CHUNK_BYTES };

const patternOf = (keys: KeyBatch, i: number): Buffer => Buffer.alloc(CHUNK_BYTES, keyAt(keys, i));

function fill(region: MappedRegion, keys: KeyBatch): void {
  for (const i of range(keys.count)) region.bytes.set(patternOf(keys, i), i * CHUNK_BYTES);
}

function chunksOf(keys: KeyBatch): Chunks {
  const blocks = Uint32Array.from(range(keys.count * BLOCKS_PER_CHUNK));
  return { keys, groups: new Uint32Array(keys.count), blocks };
}

function holds(region: MappedRegion, keys: KeyBatch, i: number): boolean {
  const bytes = region.bytes.subarray(i * CHUNK_BYTES, (i + 1) * CHUNK_BYTES);
  return Buffer.compare(bytes, patternOf(keys, i)) === 0;
}

async function connectScheduler(identity: EngineIdentity): Promise<DirectSchedulerClient> {
  const client = await DirectSchedulerClient.connect({ ...identity, workers: 1 });
  onTestFinished(() => client.close());
  return client;
}

describe("a worker that is killed in mid-copy", { timeout: TIMEOUT_MS }, () => {
  it(`costs its engine what it had not given, and nobody a byte, slot, hold or descriptor (${ROUNDS} rounds)`, async () => {
    const served = await serveDirect(
      { direct: { stagingBytes: 16 * MiB }, tiers: [{ backend: "memory", capacity: ARENA_BYTES }] },
      { holdGraceMs: 50 },
    );
    const judge = await judgeOf(served.socket);
    const idle = async (): Promise<boolean> =>
      (await served.server.status()).sessions.length === 2 &&
      (await metricOf(served, "kvferry_direct_staging_slots_used")) === 0 &&
      (await metricOf(served, "kvferry_direct_tickets")) === 0 &&
      (await metricOf(served, "kvferry_direct_held_blocks")) === 0;
    let descriptors = 0;
    let cutShort = 0;
    for (const round of range(ROUNDS)) {
      const identity = newEngine(served.socket, shape);
      const scheduler = await connectScheduler(identity);
      const worker = await WorkerProcess.start({ ...identity, ...layout, part: 0, memoryBytes: MEMORY_BYTES });
      const keys = randomKeys(CHUNKS);
      fill(worker.region, keys);
      void worker.order("gather", 1, chunksOf(keys)).catch(() => {});
      await sleep(randomInt(40));
      if (round % 2 === 1) {
        const { outcomes } = await scheduler.hold(keys);
        if (outcomes.includes(Outcome.LOADED)) void worker.order("scatter", 0, chunksOf(keys)).catch(() => {});
        await sleep(randomInt(10));
      }
      await worker.kill();
      await scheduler.close();
      await until(idle, 30_000);
      if ((await judge.expectRight(keys)) < CHUNKS) cutShort++;
      await until(idle, 30_000);
      worker.region.close();
      if (round === 0) descriptors = openDescriptors();
    }
    expect(cutShort).toBeGreaterThan(0);
    expect(openDescriptors()).toBeLessThanOrEqual(descriptors + 2);
    expect((await served.server.status()).direct).toHaveLength(1);
  });
});

/** An engine that looks at what others have stored: a chunk is not there, or right. */
async function judgeOf(socket: string): Promise<{ expectRight(keys: KeyBatch): Promise<number> }> {
  const identity = newEngine(socket, shape);
  const scheduler = await connectScheduler(identity);
  const region = createRegion({ rows: 1, rowBytes: MEMORY_BYTES });
  const memory = { kind: "region", memories: [{ bytes: MEMORY_BYTES }] } as const;
  const worker = await DirectWorkerClient.connect({ ...identity, ...layout, part: 0, memory, fds: [region.fd] });
  onTestFinished(async () => {
    await worker.close();
    closeFd(worker.arenaFd);
    region.close();
  });
  return {
    async expectRight(keys) {
      const found = [...(await scheduler.lookup(keys))];
      const { outcomes } = await scheduler.hold(keys);
      const loaded = [...(await worker.scatter(chunksOf(keys))).outcomes];
      let right = 0;
      for (const i of range(keys.count)) {
        expect([Outcome.LOADED, Outcome.MISS]).toContain(outcomes[i]);
        expect(loaded[i]).toBe(outcomes[i]);
        if (found[i] === LookupState.MISS || loaded[i] !== Outcome.LOADED) continue;
        expect(holds(region, keys, i), `chunk ${i}`).toBe(true);
        right++;
      }
      scheduler.release(selectHeld(keys, outcomes));
      await scheduler.ping();
      return right;
    },
  };
}

function selectHeld(keys: KeyBatch, outcomes: Uint8Array): KeyBatch {
  const held = range(keys.count).filter((i) => outcomes[i] === Outcome.LOADED);
  return { ...keys, bytes: Buffer.concat(held.map((i) => keyAt(keys, i))), count: held.length };
}

describe("a server that is killed in mid-copy", { timeout: TIMEOUT_MS }, () => {
  it(`leaves held blocks whole in its arena, memory that nobody writes to any more, and no wrong byte on disk (${ROUNDS} rounds)`, async () => {
    const folder = scratch();
    const socket = join(folder, "kvferry.sock");
    const config = join(folder, "kvferry.yaml");
    const tiers = `[{ backend: memory, capacity: ${ARENA_BYTES} }, { backend: posix, root: ${join(folder, "blocks")} }]`;
    writeFileSync(config, `socket: ${socket}\nhttp: "off"\nlogLevel: error\ntiers: ${tiers}\n`);
    const region = createRegion({ rows: 1, rowBytes: MEMORY_BYTES });
    onTestFinished(() => region.close());
    const memory = { kind: "process", memories: [addressOfSharedMemory(MEMORY_BYTES)] } as const;
    const before: KeyBatch[] = [];
    let cutShort = 0;
    for (const round of range(ROUNDS)) {
      const server = await serveConfig(config, socket);
      const identity = newEngine(socket, shape);
      const scheduler = await connectScheduler(identity);
      const worker = await DirectWorkerClient.connect({ ...identity, ...layout, part: 0, memory });
      const keys = before.at(-1) ?? randomKeys(CHUNKS);
      if (before.length === 0) {
        fill(region, keys);
        await worker.gather(1, chunksOf(keys));
        await until(async () => !(await scheduler.lookup(keys)).includes(LookupState.MISS), 30_000);
      }
      // what an earlier server has stored, or has been killed in the middle of
      const { outcomes, offsets } = await scheduler.hold(keys);
      region.bytes.fill(0);
      const startedMs = performance.now();
      await worker.scatter(chunksOf(keys));
      const tookMs = performance.now() - startedMs;
      for (const i of range(CHUNKS)) if (outcomes[i] === Outcome.LOADED) expect(holds(region, keys, i)).toBe(true);

      const next = randomKeys(CHUNKS);
      fill(region, next);
      const loading = round % 2 === 0;
      const copying = loading ? worker.scatter(chunksOf(keys)) : worker.gather(2, chunksOf(next));
      copying.catch(() => cutShort++);
      await sleep(Math.random() * tookMs * 0.8);
      server.child.kill("SIGKILL");
      await worker.closed;
      await copying.catch(() => {});
      region.bytes.fill(0x77); // it is ours again
      await server.finished;
      expect(Buffer.compare(region.bytes, Buffer.alloc(MEMORY_BYTES, 0x77)), "written after the end").toBe(0);
      for (const i of range(CHUNKS)) {
        if (outcomes[i] !== Outcome.LOADED) continue;
        const bytes = Buffer.alloc(CHUNK_BYTES);
        readSync(worker.arenaFd, bytes, 0, CHUNK_BYTES, offsets[i] as number);
        expect(Buffer.compare(bytes, patternOf(keys, i)), `held chunk ${i}`).toBe(0);
      }
      closeFd(worker.arenaFd);
      before.push(loading ? keys : next);
    }
    expect(cutShort).toBeGreaterThan(0);
  });
});

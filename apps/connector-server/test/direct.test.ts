import { readdirSync, readFileSync, readSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type KeyBatch, keyHex, LookupState, Outcome } from "@kvferry/core";
import { describe, expect, it } from "vitest";
import {
  CHUNK_BYTES,
  chunkPattern,
  connectEngine,
  connectScheduler,
  connectWorker,
  MiB,
  metricOf,
  newEngine,
  PARTS,
  serveDirect,
  storeChunks,
  type TestEngine,
} from "./direct-helpers.js";
import {
  connect,
  fill,
  namespace,
  openDescriptors,
  RawClient,
  randomKeys,
  range,
  serve,
  type TestServer,
  until,
} from "./helpers.js";

const TIMEOUT_MS = 120_000;

const all = (count: number, outcome: number): number[] => new Array(count).fill(outcome);

/** A folder in which these chunks have been stored. */
async function storedRoot(keys: KeyBatch): Promise<string> {
  const first = await serve();
  const { client, region } = await connect(first.socket, { blockBytes: CHUNK_BYTES, rows: keys.count });
  for (const i of range(keys.count)) region.bytes.set(chunkPattern(keys, i), i * region.rowBytes);
  await client.store(keys, range(keys.count));
  await client.close();
  await first.server.close();
  return first.root;
}

/** A server with an arena that is empty, over blocks that are on disk. */
async function serveStored(keys: KeyBatch, damage?: (root: string) => void): Promise<TestServer> {
  const root = await storedRoot(keys);
  damage?.(root);
  const tiers = [
    { backend: "memory" as const, capacity: 8 * MiB },
    { backend: "posix" as const, root },
  ];
  return serveDirect({ tiers });
}

function fileOf(root: string, keys: KeyBatch, index: number): string {
  const hash = keyHex(keys.bytes.subarray(index * keys.stride, (index + 1) * keys.stride));
  const file = readdirSync(root, { recursive: true }).find((each) => String(each).includes(hash));
  if (file === undefined) throw new Error(`no file of ${hash} in ${readdirSync(root, { recursive: true }).join(" ")}`);
  return join(root, String(file));
}

async function expectScattered({ workers }: TestEngine, keys: KeyBatch, firstPage = 100): Promise<void> {
  for (const { client, pages } of workers) {
    pages.clear();
    const { outcomes } = await client.scatter(pages.chunks(keys, firstPage));
    expect([...outcomes]).toEqual(all(keys.count, Outcome.LOADED));
    for (const i of range(keys.count)) expect(pages.holds(keys, i, firstPage), `chunk ${i}`).toBe(true);
  }
}

describe("an engine in direct mode", { timeout: TIMEOUT_MS }, () => {
  it("stores chunks of all its workers' parts, finds them, and loads them into other pages", async () => {
    const { socket } = await serveDirect();
    const engine = await connectEngine(socket);
    const { client, stored } = engine.scheduler;
    const [one, two] = engine.workers as [(typeof engine.workers)[0], (typeof engine.workers)[0]];
    const keys = randomKeys(20);
    const first = await one.client.gather(1, one.pages.fill(keys));
    expect([...first.outcomes]).toEqual(all(20, Outcome.STORED));
    expect([...(await client.lookup(keys))]).toEqual(all(20, LookupState.MISS));
    expect(stored).toEqual([]);
    const second = await two.client.gather(1, two.pages.fill(keys));
    expect([...second.outcomes]).toEqual(all(20, Outcome.STORED));
    expect(await engine.scheduler.outcomesOf(1)).toEqual(all(20, Outcome.STORED));
    expect([...(await client.lookup(keys))]).toEqual(all(20, LookupState.HIT));

    expect([...(await client.hold(keys)).outcomes]).toEqual(all(20, Outcome.LOADED));
    await expectScattered(engine, keys);
    client.release(keys);
    await client.ping();
    const { outcomes } = await one.client.scatter(one.pages.chunks(keys, 100));
    expect([...outcomes]).toEqual(all(20, Outcome.MISS));
  });

  it("shares its chunks with engines in tier mode: the bytes are the same, zeros behind the parts included", async () => {
    const { socket } = await serveDirect();
    const engine = await connectEngine(socket);
    const keys = randomKeys(4);
    expect(await storeChunks(engine, keys)).toEqual(all(4, Outcome.STORED));
    const tier = await connect(socket, { blockBytes: CHUNK_BYTES, rows: 8 });
    expect([...(await tier.client.load(keys, range(4))).outcomes]).toEqual(all(4, Outcome.LOADED));
    for (const i of range(4)) {
      const { bytes, rowBytes } = tier.region;
      expect(Buffer.compare(bytes.subarray(i * rowBytes, i * rowBytes + CHUNK_BYTES), chunkPattern(keys, i))).toBe(0);
    }
    expect(await storeChunks(engine, keys)).toEqual(all(4, Outcome.PRESENT));
    const others = randomKeys(4);
    for (const i of range(4)) tier.region.bytes.set(chunkPattern(others, i), i * tier.region.rowBytes);
    await tier.client.store(others, range(4));
    expect([...(await engine.scheduler.client.hold(others)).outcomes]).toEqual(all(4, Outcome.LOADED));
    await expectScattered(engine, others);
  });

  it("holds nothing before all of its workers have the arena", async () => {
    const keys = randomKeys(2);
    const { socket } = await serveStored(keys);
    const identity = newEngine(socket);
    const { client } = await connectScheduler(identity);
    const busy = await client.hold(keys);
    expect([...busy.outcomes, ...busy.codes]).toEqual([0, 0, 8, 8]);
    await connectWorker(identity, 0);
    expect([...(await client.hold(keys)).outcomes]).toEqual([0, 0]);
    const second = await connectWorker(identity, 1);
    expect([...(await client.hold(keys)).outcomes]).toEqual(all(2, Outcome.LOADED));
    await second.client.close();
    expect([...(await client.hold(keys)).outcomes]).toEqual([0, 0]);
  });

  it("reads a block once from a slow tier, however many engines hold it, and keeps it for each", async () => {
    const keys = randomKeys(12);
    const served = await serveStored(keys);
    const engines = await Promise.all(range(8).map(() => connectEngine(served.socket, 1)));
    const held = await Promise.all(engines.map(({ scheduler }) => scheduler.client.hold(keys)));
    for (const { outcomes, offsets } of held) {
      expect([...outcomes]).toEqual(all(12, Outcome.LOADED));
      expect(offsets).toEqual(held[0]?.offsets);
    }
    const loaded = 'kvferry_backend_keys_total{backend="posix",operation="load",outcome="loaded",code=""}';
    expect(await metricOf(served, loaded)).toBe(12);
    expect(await metricOf(served, "kvferry_direct_held_blocks")).toBe(8 * 12);
    for (const engine of engines) await expectScattered(engine, keys);
  });

  it("never gets bytes that are damaged on disk: CORRUPT at HOLD, and then not held", async () => {
    const keys = randomKeys(3);
    const served = await serveStored(keys, (root) => {
      const file = fileOf(root, keys, 1);
      const bytes = readFileSync(file);
      bytes[777] = (bytes[777] as number) ^ 0x10;
      writeFileSync(file, bytes);
    });
    const engine = await connectEngine(served.socket);
    const { client } = engine.scheduler;
    const { LOADED, CORRUPT, MISS } = Outcome;
    expect([...(await client.hold(keys)).outcomes]).toEqual([LOADED, CORRUPT, LOADED]);
    for (const { client: worker, pages } of engine.workers) {
      pages.clear();
      expect([...(await worker.scatter(pages.chunks(keys))).outcomes]).toEqual([LOADED, MISS, LOADED]);
      expect(pages.holds(keys, 1)).toBe(false);
      expect([...pages.region.bytes.subarray(2 * 2048, 4 * 2048)].every((byte) => byte === 0xee)).toBe(true);
    }
    expect([...(await client.hold(keys)).outcomes]).toEqual([LOADED, MISS, LOADED]);
    expect(await metricOf(served, 'kvferry_direct_hold_blocks_total{source="tier",outcome="corrupt"}')).toBe(1);
    expect(await metricOf(served, 'kvferry_direct_hold_blocks_total{source="arena",outcome="loaded"}')).toBe(2);
    expect(await storeChunks(engine, keys)).toEqual([Outcome.PRESENT, Outcome.STORED, Outcome.PRESENT]);
  });

  it("keeps what it holds while stores of others ask for all of the arena", async () => {
    const served = await serveDirect({ tiers: [{ backend: "memory", capacity: 8 * MiB }] });
    const { socket } = served;
    const engine = await connectEngine(socket);
    const keys = randomKeys(100);
    await storeChunks(engine, keys);
    expect([...(await engine.scheduler.client.hold(keys)).outcomes]).toEqual(all(100, Outcome.LOADED));
    const others = await Promise.all(range(3).map(() => connect(socket, { blockBytes: CHUNK_BYTES, rows: 64 })));
    let isOver = false;
    const hammering = others.map(async ({ client, region }) => {
      for (let round = 0; round < 40; round++) {
        const more = randomKeys(64);
        fill(region, more, range(64), CHUNK_BYTES);
        await client.store(more, range(64));
      }
      isOver = true;
    });
    while (!isOver) await expectScattered(engine, keys);
    await Promise.all(hammering);
    await expectScattered(engine, keys);
    const status = await served.server.status();
    const stored = status.namespaces[0]?.tiers[0]?.usage?.blocks ?? 0;
    expect(stored).toBeLessThan(1000); // of the 7,680 that were stored most have gone
    engine.scheduler.client.release(keys);
    await engine.scheduler.client.ping();
    expect(await metricOf(served, "kvferry_direct_held_blocks")).toBe(0);
  });

  it("gets stores dropped, and loads all the same, when all of the arena is held", async () => {
    const { socket } = await serveDirect({ tiers: [{ backend: "memory", capacity: 2 * MiB }] });
    const engine = await connectEngine(socket);
    const keys = randomKeys(220);
    const outcomes = await storeChunks(engine, keys);
    const held = [...(await engine.scheduler.client.hold(keys)).outcomes];
    expect(held).toEqual(outcomes.map((each) => (each === Outcome.STORED ? Outcome.LOADED : Outcome.MISS)));
    expect(outcomes).toContain(Outcome.DROPPED);
    expect(await storeChunks(engine, randomKeys(2))).toEqual(all(2, Outcome.DROPPED));
    const kept = held.indexOf(Outcome.LOADED);
    const { client, pages } = engine.workers[0] as (typeof engine.workers)[0];
    const first = { ...keys, bytes: keys.bytes.subarray(kept * keys.stride, (kept + 1) * keys.stride), count: 1 };
    expect([...(await client.scatter(pages.chunks(first))).outcomes]).toEqual([Outcome.LOADED]);
    expect(pages.holds(first, 0)).toBe(true);
  });

  it("has chunks dropped, and counted, for which no staging slot is free in time; loads do not wait for them", async () => {
    const keys = randomKeys(2);
    const root = await storedRoot(keys);
    const served = await serveDirect({
      direct: { stagingBytes: 4 * 12_288 },
      tiers: [
        { backend: "memory", capacity: 8 * MiB, deadlineMs: 1500 },
        { backend: "posix", root, deadlineMs: 1500 },
      ],
    });
    const engine = await connectEngine(served.socket);
    const { scheduler, workers } = engine;
    const [one, two] = workers as [(typeof workers)[0], (typeof workers)[0]];
    const more = randomKeys(10);
    const gathering = one.client.gather(1, one.pages.fill(more));
    await until(async () => (await metricOf(served, "kvferry_direct_staging_slots_used")) === 2, 20_000);
    expect([...(await scheduler.client.hold(keys)).outcomes]).toEqual(all(2, Outcome.LOADED));
    expect([...(await gathering).outcomes]).toEqual([...all(2, Outcome.STORED), ...all(8, Outcome.DROPPED)]);
    expect(await scheduler.outcomesOf(1)).toEqual([...all(2, Outcome.FAILED), ...all(8, Outcome.DROPPED)]);
    expect([...(await two.client.gather(1, two.pages.fill(more))).outcomes]).toEqual(all(10, Outcome.DROPPED));
    expect(await metricOf(served, 'kvferry_direct_dropped_blocks_total{reason="staging"}')).toBe(8);
    expect(await metricOf(served, 'kvferry_direct_dropped_blocks_total{reason="part_missing"}')).toBe(2);
    expect(await metricOf(served, "kvferry_direct_staging_slots_used")).toBe(0);
    expect(await metricOf(served, "kvferry_direct_tickets")).toBe(0);
    expect(await storeChunks(engine, more)).toEqual(all(10, Outcome.STORED));
  });

  it("is not charged with blocks that were brought for a connection that had ended before the answer", async () => {
    const keys = randomKeys(50);
    const served = await serveStored(keys);
    const engine = await connectEngine(served.socket, 1);
    const { client } = await connectScheduler(engine.identity, { workers: 1 });
    const raw = new RawClient(served.socket);
    const { parts, partBytes, keyBytes, blockBytes } = engine.identity;
    raw.send({
      ...{ t: "hello", version: 1, client: { name: "raw", version: "1", instance: "a" }, namespace, keyBytes },
      ...{ blockBytes, vllmFs: null, events: false },
      direct: { role: "scheduler", engine: engine.identity.engine, parts, partBytes, workers: 1 },
    });
    await raw.next("welcome");
    const sessions = (await served.server.status()).sessions.length;
    raw.send({ t: "hold", id: 1, keys: keys.bytes });
    raw.connection.close();
    await until(async () => (await served.server.status()).sessions.length === sessions - 1, 20_000);
    expect(await metricOf(served, 'kvferry_direct_hold_blocks_total{source="tier",outcome="loaded"}')).toBe(50);
    expect(await metricOf(served, "kvferry_direct_held_blocks")).toBe(0);
    expect([...(await client.hold(keys)).outcomes]).toEqual(all(50, Outcome.LOADED));
    expect(await metricOf(served, "kvferry_direct_held_blocks")).toBe(50);
  });

  it("finds its holds when its scheduler has connected again, and releases them", async () => {
    const served = await serveDirect();
    const engine = await connectEngine(served.socket);
    const keys = randomKeys(5);
    await storeChunks(engine, keys);
    await engine.scheduler.client.hold(keys);
    await engine.scheduler.client.close();
    const again = await connectScheduler(engine.identity);
    await expectScattered(engine, keys);
    again.client.release(keys);
    again.client.release(keys); // what is not held is left out
    await again.client.ping();
    expect(await metricOf(served, "kvferry_direct_held_blocks")).toBe(0);
    expect(await storeChunks({ ...engine, scheduler: again }, randomKeys(1))).toEqual([Outcome.STORED]);
  });

  it("loses its holds only some time after its last connection", async () => {
    const served = await serveDirect({}, { holdGraceMs: 1500 });
    const engine = await connectEngine(served.socket);
    const keys = randomKeys(5);
    await storeChunks(engine, keys);
    await engine.scheduler.client.hold(keys);
    for (const { client } of engine.workers) await client.close();
    await engine.scheduler.client.close();
    expect(await metricOf(served, "kvferry_direct_held_blocks")).toBe(5);
    const again = await connectScheduler(engine.identity, { workers: 1 });
    const worker = await connectWorker(engine.identity, 0);
    await sleep(2000);
    expect([...(await worker.client.scatter(worker.pages.chunks(keys))).outcomes]).toEqual(all(5, Outcome.LOADED));
    await again.client.close();
    await worker.client.close();
    await until(async () => (await metricOf(served, "kvferry_direct_held_blocks")) === 0, 20_000);
    expect(await metricOf(served, "kvferry_direct_engines")).toBe(0);
    expect(await metricOf(served, "kvferry_direct_staging_slots")).toBe(0);
  });

  it("can read what it holds after the server's end, in order or not, and write to it never", async () => {
    const served = await serveDirect();
    const engine = await connectEngine(served.socket);
    const keys = randomKeys(5);
    await storeChunks(engine, keys);
    const { offsets } = await engine.scheduler.client.hold(keys);
    const { arenaFd } = engine.workers[0] as (typeof engine.workers)[0];
    expect(engine.scheduler.client.welcome.direct.arenaBytes).toBe(8 * MiB);
    expect(() => writeSync(arenaFd, Buffer.of(1), 0, 1, 0)).toThrow(/EBADF/);
    expect(await served.server.close()).toBe(true);
    for (const i of range(5)) {
      const bytes = Buffer.alloc(CHUNK_BYTES);
      readSync(arenaFd, bytes, 0, CHUNK_BYTES, offsets[i] as number);
      expect(Buffer.compare(bytes, chunkPattern(keys, i))).toBe(0);
    }
  });

  it("gets no new gathers from a server that drains, but what was prepared is still loaded", async () => {
    const served = await serveDirect({ direct: { stagingBytes: 4 * 12_288 }, drainTimeoutMs: 4000 });
    const engine = await connectEngine(served.socket);
    const keys = randomKeys(2);
    await storeChunks(engine, keys);
    await engine.scheduler.client.hold(keys);
    const { client, pages } = engine.workers[0] as (typeof engine.workers)[0];
    const waiting = client.gather(50, pages.fill(randomKeys(6))); // for slots, which the other worker's part would free
    await client.ping();
    const closing = served.server.close();
    await until(() => !engine.scheduler.client.connected, 20_000);
    await expect(client.gather(51, pages.fill(keys))).rejects.toMatchObject({ code: "UNAVAILABLE" });
    expect([...(await client.scatter(pages.chunks(keys, 50))).outcomes]).toEqual(all(2, Outcome.LOADED));
    expect(pages.holds(keys, 1, 50)).toBe(true);
    expect([...(await waiting).outcomes]).not.toContain(Outcome.PRESENT);
    expect(await closing).toBe(true);
  });

  it("is shown by the status, and leaves no descriptor, slot or engine behind", async () => {
    const served = await serveDirect({}, { holdGraceMs: 10 });
    const before = openDescriptors();
    const engine = await connectEngine(served.socket);
    const keys = randomKeys(3);
    await storeChunks(engine, keys);
    await engine.scheduler.client.hold(keys);
    const status = await served.server.status();
    expect(status.direct).toEqual([
      {
        engine: engine.identity.engine,
        namespace: engine.scheduler.client.welcome.digest,
        parts: PARTS,
        schedulers: 1,
        workers: 2,
        heldBlocks: 3,
        heldBytes: 3 * CHUNK_BYTES,
        tickets: 0,
      },
    ]);
    expect(status.sessions.map(({ direct }) => direct)).toContainEqual({
      engine: engine.identity.engine,
      role: "worker",
      part: 1,
    });
    for (const { client } of engine.workers) await client.close();
    await engine.scheduler.client.close();
    await until(async () => (await served.server.status()).direct.length === 0, 20_000);
    // what stays open: the clients' regions and arenas, the server's own descriptor of the arena, and the folders of the namespace
    expect(openDescriptors() - before).toBeLessThan(2 * 2 + 8);
  });
});

import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import {
  countOutcome,
  createMemoryRegion,
  createNamespace,
  keyAt,
  keyHex,
  LookupState,
  Outcome,
  packedKeys,
} from "@kvferry/core";
import { afterEach, describe, expect, it } from "vitest";
import { CapacityProcess, pickServer, until } from "../../../../scripts/lib/capacity-process.mjs";
import { PosixBackend } from "../../src/index.js";
import { BLOCK_BYTES, KEY_BYTES, makeKeys, namespaceFields } from "../crash-blocks.mjs";
import { makeRoot } from "../storage.js";

const ROUNDS = process.env.KVFERRY_LONG === "1" ? 200 : 10;
const SERVERS = 3;
const FILE_BYTES = BLOCK_BYTES + 4096;
const CAPACITY_BYTES = 200 * FILE_BYTES + 1000;
const program = fileURLToPath(new URL("./capacity-server.mjs", import.meta.url));

let servers: CapacityProcess[] = [];
let cleanup: () => Promise<void> = async () => {};
afterEach(async () => {
  for (const server of servers) await server.kill();
  servers = [];
  await cleanup();
});

/** Bytes of all block files, temporary and damaged ones too, and how many blocks have a name. */
function measure(folder: string): { bytes: number; blocks: number } {
  let [bytes, blocks] = [0, 0];
  for (const name of namesIn(folder)) {
    if (name === "capacity" || name.endsWith(".json")) continue;
    const path = join(folder, name);
    const found = statSync(path, { throwIfNoEntry: false });
    if (found?.isDirectory()) {
      const below = measure(path);
      bytes += below.bytes;
      blocks += below.blocks;
    } else if (found?.isFile()) {
      bytes += found.size;
      if (path.includes("/blocks/") && name.endsWith(".kvb")) blocks++;
    }
  }
  return { bytes, blocks };
}

/** None where the folder has just gone: a leader removes those of servers that have ended. */
function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw thrown;
  }
}

/** What is on storage at one moment, at which no server moves. */
async function measureFrozen(root: string): Promise<number> {
  const running = servers.filter(({ stopped }) => !stopped);
  await Promise.all(running.map((server) => server.freeze()));
  const { bytes } = measure(root);
  for (const server of running) server.thaw();
  return bytes;
}

async function start(root: string, seed: number): Promise<CapacityProcess> {
  const args = [program, root, String(seed), String(CAPACITY_BYTES), seed % 2 === 0 ? "rename" : "link"];
  const server = new CapacityProcess(args);
  servers.push(server);
  await until("a server is open", () => server.isOpen);
  return server;
}

async function watch(root: string, times: number): Promise<void> {
  for (let i = 0; i < times; i++) {
    await sleep(5 + Math.random() * 60);
    expect(await measureFrozen(root)).toBeLessThanOrEqual(CAPACITY_BYTES);
  }
}

/** Those that are left store on, whoever has gone or stands still. */
async function storesGoOn(root: string): Promise<void> {
  const before = new Map(servers.map((server) => [server, server.done.stored]));
  const one = (): boolean =>
    servers.some((server) => !server.stopped && server.done.stored > (before.get(server) ?? 0) + 32);
  for (let i = 0; i < 600 && !one(); i++) await watch(root, 1);
  expect(one(), "stores go on").toBe(true);
}

/** All are killed at once; who comes next counts what is there. */
async function killAll(root: string, round: number): Promise<void> {
  await Promise.all(servers.map((server) => server.kill()));
  servers = [];
  const { bytes } = measure(root);
  expect(bytes).toBeLessThanOrEqual(CAPACITY_BYTES);
  const server = await start(root, 1000 * round);
  let line = await server.usage();
  const found = measure(root);
  expect(line.usage).toMatchObject({ bytes: found.blocks * FILE_BYTES, blocks: found.blocks });
  for (let i = 0; i < 1000 && line.status?.count?.ready !== true; i++) {
    await sleep(50);
    line = await server.usage();
  }
  expect(line.status?.count?.counted).toEqual({ bytes: found.blocks * FILE_BYTES, files: found.blocks });
  server.tell("go");
}

async function disturb(root: string, round: number): Promise<void> {
  const target = pickServer(servers);
  if (round % 4 === 3) await killAll(root, round);
  else if (round % 4 === 2) {
    await target.freeze();
    target.stopped = true;
    await storesGoOn(root); // a new leader, if that was it
    target.thaw();
    target.stopped = false;
  } else {
    await target.kill();
    servers = servers.filter((server) => server !== target);
    await storesGoOn(root);
  }
}

describe("three servers over one root", () => {
  it(`hold its capacity while any of them is killed or stands still, ${ROUNDS} times`, {
    timeout: 60_000 + ROUNDS * 30_000,
  }, async () => {
    const { root, remove } = await makeRoot();
    cleanup = remove;
    for (let round = 0; round < ROUNDS; round++) {
      for (let i = 0; servers.length < SERVERS; i++) (await start(root, 1000 * round + i)).tell("go");
      await watch(root, 8);
      await disturb(root, round);
      await watch(root, 4);
      for (const { done } of servers) expect(done).toMatchObject({ failed: 0, wrong: 0 });
    }
    const sum = servers.reduce((total, { done }) => total + done.loaded, 0);
    expect(sum).toBeGreaterThan(0);
  });

  it("hear of what another one evicts: they answer MISS soon without a load, and announce it", {
    timeout: 60_000,
  }, async () => {
    const { root, remove } = await makeRoot();
    cleanup = remove;
    const evictor = await start(root, 1);
    await until("it leads", () => evictor.leads);
    const backend = new PosixBackend({ root, threads: 4, capacityBytes: CAPACITY_BYTES });
    await backend.open({ namespace: createNamespace(namespaceFields), keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES });
    try {
      const announced: string[] = [];
      backend.onRemoved((keys, reason) => {
        for (let i = 0; i < keys.count; i++) announced.push(`${reason} ${keyHex(keyAt(keys, i))}`);
      });
      const keys = packedKeys(makeKeys(1_000_000, 16), KEY_BYTES);
      const slots = Uint32Array.from({ length: 16 }, (_, i) => i);
      const region = createMemoryRegion(16, BLOCK_BYTES);
      let stored = 0;
      for (let i = 0; i < 100 && stored < 16; i++) {
        stored = countOutcome(await backend.store({ keys, region, slots }), Outcome.STORED);
      }
      expect([...(await backend.lookup(keys))]).toEqual(Array(16).fill(LookupState.HIT));
      evictor.tell("go");
      let states = new Uint8Array(16).fill(LookupState.HIT);
      await until("all are misses", () => {
        void backend.lookup(keys).then((found) => {
          states = Uint8Array.from(found);
        });
        return !states.includes(LookupState.HIT);
      });
      const isAnnounced = (_: unknown, i: number): boolean => announced.includes(`evicted ${keyHex(keyAt(keys, i))}`);
      await until("all are announced", () => Array.from({ length: 16 }, isAnnounced).every(Boolean));
    } finally {
      await backend.close();
    }
  });
});

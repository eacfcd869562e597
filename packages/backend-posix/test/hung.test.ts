import { pbkdf2 } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import {
  type BlockBatch,
  CircuitBreakerLayer,
  createMemoryRegion,
  createNamespace,
  DeadlineLayer,
  type KeyBatch,
  keyAt,
  LookupState,
  MemoryBackend,
  type OpenContext,
  Outcome,
  outcomeCode,
  packedKeys,
  slotBytes,
  TieredStore,
} from "@kvferry/core";
import { createFileEngine, type FileEngine } from "@kvferry/native";
import { afterEach, describe, expect, it } from "vitest";
import { type FuseFaults, fuseProblem, mountFuseFaults } from "../../../scripts/lib/fuse-faults.mjs";
import { PosixBackend } from "../src/index.js";
import { namespaceFields } from "./crash-blocks.mjs";

const KEY_BYTES = 36;
const BLOCK_BYTES = 64 * 1024;
const ROWS = 16;
const SENTINEL = 0x5a;
const THREADS = 4;
const STUCK_THREADS_MAX = 3;
const DEADLINE_MS = 300;
const TIMEOUT_MS = 120_000;
const context: OpenContext = {
  namespace: createNamespace(namespaceFields),
  keyBytes: KEY_BYTES,
  blockBytes: BLOCK_BYTES,
};

const ends: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

async function mounted(): Promise<FuseFaults> {
  const mount = await mountFuseFaults();
  ends.push(() => mount.unmount());
  return mount;
}

function newEngine(): FileEngine {
  const limits = { threads: THREADS, stuckThreadsMax: STUCK_THREADS_MAX, stuckAfterMs: 200 };
  const engine = createFileEngine({ abandonable: true, ...limits });
  ends.push(() => engine.close());
  return engine;
}

function keysFrom(first: number): KeyBatch {
  const bytes = Buffer.alloc(ROWS * KEY_BYTES);
  for (let i = 0; i < ROWS; i++) bytes.writeUInt32BE(((first + i) * 2654435761) >>> 0, i * KEY_BYTES);
  return packedKeys(bytes, KEY_BYTES);
}

function emptyBatch(keys: KeyBatch): BlockBatch {
  const region = createMemoryRegion(ROWS, BLOCK_BYTES);
  region.bytes.fill(SENTINEL);
  return { keys, region, slots: Uint32Array.from({ length: ROWS }, (_, i) => i) };
}

function byteOf(key: Uint8Array): number {
  return ((key[0] as number) ^ (key[1] as number)) | 1; // never the sentinel
}

/** Slots hold bytes that follow from the keys. */
function filledBatch(keys: KeyBatch): BlockBatch {
  const batch = emptyBatch(keys);
  for (let i = 0; i < ROWS; i++) slotBytes(batch.region, i).fill(byteOf(keyAt(keys, i)));
  return batch;
}

function isFilledWith(bytes: Uint8Array, value: number): boolean {
  return Buffer.compare(bytes, Buffer.alloc(bytes.length, value)) === 0;
}

/** LOADED slots must hold their block. Returns how many there are. */
function countWhole(batch: BlockBatch, outcomes: Uint8Array): number {
  let whole = 0;
  for (const [i, outcome] of outcomes.entries()) {
    if (outcome !== Outcome.LOADED) continue;
    expect(isFilledWith(slotBytes(batch.region, i), byteOf(keyAt(batch.keys, i)))).toBe(true);
    whole++;
  }
  return whole;
}

/** Threads of the engines of this process. */
function ioThreads(): number {
  return readdirSync("/proc/self/task").filter((task) => {
    try {
      return readFileSync(`/proc/self/task/${task}/comm`, "utf8").startsWith("kvferry-ab");
    } catch {
      return false; // it has just ended
    }
  }).length;
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  for (const begin = Date.now(); !(await condition()); await sleep(20)) {
    if (Date.now() - begin > TIMEOUT_MS / 2) throw new Error("it did not come to this");
  }
}

/** A memory tier above a posix tier that stands behind deadline and breaker, as in the server. */
async function openTiers(root: string, engine: FileEngine) {
  const ms = DEADLINE_MS;
  const timely = new DeadlineLayer(new PosixBackend({ root, engine }), {
    ...{ lookupMs: ms, loadMs: ms, storeMs: ms, usageMs: ms },
  });
  const posix = new CircuitBreakerLayer(timely, { failuresInRowMax: 3, openMs: 200 });
  const tiers = new TieredStore({
    tiers: [
      { name: "memory", backend: new MemoryBackend(), capacityBytes: 4 * ROWS * BLOCK_BYTES },
      { name: "posix", backend: posix, isDown: () => posix.circuit !== "closed" },
    ],
    drainMs: 100,
  });
  await tiers.open(context);
  ends.push(() => tiers.close());
  return { tiers, posix };
}

const problem = fuseProblem();
const suite = problem === undefined ? describe : describe.skip;

suite(`a file system that hangs${problem === undefined ? "" : `: ${problem}`}`, { timeout: TIMEOUT_MS }, () => {
  it("fails its own tier in time and nothing else, writes no slot later, and serves again when it is back", async () => {
    const mount = await mounted();
    const engine = newEngine();
    const { tiers, posix } = await openTiers(join(mount.folder, "root"), engine);
    const onDisk = keysFrom(0);
    const inMemory = keysFrom(1000);
    expect([...(await posix.store(filledBatch(onDisk))).outcomes]).toEqual(new Array(ROWS).fill(Outcome.STORED));
    await tiers.store(filledBatch(inMemory));
    await mount.stop();

    const loads: BlockBatch[] = [];
    const stores: KeyBatch[] = [];
    const codes = new Set<string | undefined>();
    for (let round = 1; posix.circuit !== "open"; round++) {
      const target = emptyBatch(onDisk);
      loads.push(target);
      const source = filledBatch(keysFrom(round * 10_000));
      stores.push(source.keys);
      const results = await Promise.all([posix.load(target), posix.store(source)]);
      source.region.bytes.fill(SENTINEL); // the caller's again
      for (const result of results) {
        for (const [i, outcome] of result.outcomes.entries()) {
          expect([Outcome.FAILED, Outcome.DROPPED]).toContain(outcome);
          codes.add(outcomeCode(result, i));
        }
      }
      await posix.lookup(keysFrom(round * 20_000)).catch(() => {}); // it ends
    }
    expect([...codes].every((code) => code === "DEADLINE" || code === "UNAVAILABLE")).toBe(true);
    expect([...(await posix.lookup(keysFrom(7)))]).toEqual(new Array(ROWS).fill(LookupState.MISS));
    await expect(posix.usage()).rejects.toMatchObject({ code: expect.stringMatching(/DEADLINE|UNAVAILABLE/) });
    const beside = emptyBatch(inMemory);
    expect(countWhole(beside, (await tiers.load(beside)).outcomes)).toBe(ROWS);
    await until(() => engine.stats().stuckThreads > 0);
    expect(ioThreads()).toBeLessThanOrEqual(THREADS + STUCK_THREADS_MAX);
    // Node's own threads are free
    await Promise.all(Array.from({ length: 8 }, () => stat("/")));
    await promisify(pbkdf2)("a", "b", 1, 16, "sha256");

    mount.resume();
    await until(async () => {
      const again = emptyBatch(onDisk);
      return countWhole(again, (await posix.load(again)).outcomes) === ROWS;
    });
    await until(() => engine.stats().stuckThreads === 0 && engine.stats().threads === THREADS);
    for (const { region } of loads) expect(isFilledWith(region.bytes, SENTINEL)).toBe(true);
    for (const keys of stores) {
      const late = emptyBatch(keys);
      const { outcomes } = await posix.load(late);
      countWhole(late, outcomes); // what came through late is whole
      for (const outcome of outcomes) expect([Outcome.LOADED, Outcome.MISS]).toContain(outcome);
    }
  });

  it("keeps neither open nor close, nor the engine's end, from ending", async () => {
    const mount = await mounted();
    const root = join(mount.folder, "root");
    const backend = new PosixBackend({ root, abandonable: true, threads: THREADS });
    await backend.open(context);
    await mount.stop();
    const late = new PosixBackend({ root, abandonable: true, threads: THREADS });
    await expect(late.open({ ...context, signal: AbortSignal.timeout(DEADLINE_MS) })).rejects.toMatchObject({
      code: "DEADLINE",
    });
    const target = emptyBatch(keysFrom(0));
    const calls = [backend.load(target), backend.usage(), backend.lookup(keysFrom(50))]; // without a deadline
    const settled = Promise.allSettled(calls);
    await backend.close();
    await settled;
    mount.resume();
    await until(() => ioThreads() === 0);
    expect(isFilledWith(target.region.bytes, SENTINEL)).toBe(true);
  });
});

suite(`a file system that fails${problem === undefined ? "" : `: ${problem}`}`, { timeout: TIMEOUT_MS }, () => {
  it("gives the codes of its errors, leaves nothing behind, and is slow without harm", async () => {
    const mount = await mounted();
    const backend = new PosixBackend({ root: join(mount.folder, "root"), engine: newEngine() });
    await backend.open(context);
    ends.push(() => backend.close());
    const store = async (first: number) => {
      const result = await backend.store(filledBatch(keysFrom(first)));
      return [...result.outcomes.keys()].map((i) => outcomeCode(result, i));
    };
    for (const [operation, errno, code] of [
      ["write", 28, "NO_SPACE"],
      ["write", 5, "IO"],
      ["create", 122, "NO_SPACE"],
      ["rename", 116, "STALE"],
    ] as const) {
      mount.faults(`${operation} ${errno} 1 0`);
      expect(await store(1)).toEqual(new Array(ROWS).fill(code));
      mount.faults();
      expect(blockFiles(mount.backing)).toEqual([]);
    }
    expect(await store(1)).toEqual(new Array(ROWS).fill(undefined));
    mount.faults("open 5 1 0");
    const failed = await backend.load(emptyBatch(keysFrom(1)));
    expect([...failed.outcomes]).toEqual(new Array(ROWS).fill(Outcome.FAILED));
    expect(outcomeCode(failed, 0)).toBe("IO");
    mount.faults("open 0 0.5 30", "read 0 0.5 30", "write 0 0.5 30");
    expect(await store(100)).toEqual(new Array(ROWS).fill(undefined));
    const slow = emptyBatch(keysFrom(1));
    expect(countWhole(slow, (await backend.load(slow)).outcomes)).toBe(ROWS);
  });
});

function blockFiles(folder: string): string[] {
  return (readdirSync(folder, { recursive: true }) as string[]).filter((name) =>
    /\.kvb$|\/tmp\/[^/]+\/\d+$/.test(name),
  );
}

// What memory and a drive evict, found again on the last tier, which is never written by stores.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { HostArena, HostMemoryBackend } from "@kvferry/backend-host-memory";
import { NvmeBackend, openNvmeDrive } from "@kvferry/backend-nvme";
import { PosixBackend } from "@kvferry/backend-posix";
import {
  createMemoryRegion,
  createNamespace,
  type KeyBatch,
  LookupState,
  type OffloadBackend,
  Outcome,
  packKeys,
  silentLogger,
  slotBytes,
  TieredStore,
} from "@kvferry/core";
import { afterEach, describe, expect, it } from "vitest";
import { startStorage } from "../src/storage/storage.js";
import { resolveTiers } from "../src/storage/tier-config.js";
import { namespace } from "./helpers.js";

const BLOCK_BYTES = 16_384;
const PER_STORE = 8;
const MEBIBYTE = 2 ** 20;
const ends: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

function folderOfOne(): string {
  const folder = mkdtempSync(join(tmpdir(), "kvferry-cascade-"));
  ends.push(async () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

function keysOf(first: number, count: number): KeyBatch {
  return packKeys(Array.from({ length: count }, (_, i) => Buffer.from(Uint32Array.of(first + i, 7, 0).buffer)));
}

function contentOf(number: number): Buffer {
  const content = Buffer.alloc(BLOCK_BYTES, `block ${number} `);
  content.writeUInt32LE(number, BLOCK_BYTES - 4);
  return content;
}

async function open(backend: OffloadBackend): Promise<void> {
  await backend.open({ namespace: createNamespace(namespace), keyBytes: 12, blockBytes: BLOCK_BYTES });
  ends.push(() => backend.close());
}

/** Stores blocks first to first + 7. */
async function store(backend: OffloadBackend, first: number): Promise<void> {
  const region = createMemoryRegion(PER_STORE, BLOCK_BYTES);
  for (let i = 0; i < PER_STORE; i++) region.bytes.set(contentOf(first + i), i * BLOCK_BYTES);
  const slots = Uint32Array.from({ length: PER_STORE }, (_, i) => i);
  const { outcomes } = await backend.store({ keys: keysOf(first, PER_STORE), region, slots });
  expect(new Set(outcomes)).toEqual(new Set([Outcome.STORED]));
}

/** Numbers of the blocks 0 to count - 1 that cannot be loaded. Fails where one has other bytes. */
async function missing(backend: OffloadBackend, count: number): Promise<number[]> {
  const lost: number[] = [];
  for (let first = 0; first < count; first += PER_STORE) {
    const region = createMemoryRegion(PER_STORE, BLOCK_BYTES);
    const slots = Uint32Array.from({ length: PER_STORE }, (_, i) => i);
    const { outcomes } = await backend.load({ keys: keysOf(first, PER_STORE), region, slots });
    for (let i = 0; i < PER_STORE; i++) {
      if (outcomes[i] !== Outcome.LOADED) lost.push(first + i);
      else expect(contentOf(first + i).equals(slotBytes(region, i)), `bytes of block ${first + i}`).toBe(true);
    }
  }
  return lost;
}

describe("memory over a drive over a shared folder", () => {
  it("loses nothing that the drive evicts: all is on the last tier, byte for byte", async () => {
    const folder = folderOfOne();
    const arena = new HostArena({ capacityBytes: 2 * MEBIBYTE });
    ends.push(() => arena.close());
    const drive = await openNvmeDrive({
      path: join(folder, "drive"),
      capacityBytes: 6 * MEBIBYTE,
      segmentBytes: MEBIBYTE / 2,
    });
    ends.push(() => drive.close());
    const memory = new HostMemoryBackend({ arena });
    const nvme = new NvmeBackend({ drive });
    const posix = new PosixBackend({ root: join(folder, "shared") });
    const tiered = new TieredStore({
      tiers: [
        { name: "memory", backend: memory, evictions: memory },
        { name: "drive", backend: nvme, evictions: nvme },
        { name: "shared", backend: posix, write: "none" },
      ],
    });
    await open(tiered);
    const evicted: number[] = [];
    nvme.onRemoved((keys, reason) => {
      expect(reason).toBe("evicted");
      for (let i = 0; i < keys.count; i++) evicted.push(Buffer.from(keys.bytes).readUInt32LE(i * keys.stride));
    });
    const blocks = 800; // twice what the drive holds
    for (let first = 0; first < blocks; first += PER_STORE) {
      await store(tiered, first);
      // a store that outruns the last tier would have the drive drop what it evicts
      while (drive.counters().segmentsFree < 2) await new Promise((resolve) => setImmediate(resolve));
    }
    await tiered.settled();
    expect(evicted.length).toBeGreaterThan(350);
    const gone = packKeys(evicted.map((number) => keysOf(number, 1).bytes));
    expect(new Set(await posix.lookup(gone))).toEqual(new Set([LookupState.HIT]));
    expect(tiered.tierStatus()[2]?.moved).toEqual({ "cascade done": evicted.length });
    expect(await missing(tiered, blocks)).toEqual([]);
  }, 60_000);
});

describe("a server's tiers", () => {
  it("hand on what the drive evicts, and count what the last one could not take in time", async () => {
    const folder = folderOfOne();
    const moved = new Map<string, number>();
    const sink = {
      count(name: string, { tier, move, result }: Readonly<Record<string, string>>, by: number): void {
        if (name !== "kvferry_tier_moved_blocks_total" || tier !== "posix") return;
        const kind = `${move} ${result}`;
        moved.set(kind, (moved.get(kind) ?? 0) + by);
      },
      observe() {},
      gauge() {},
    };
    const tiers = resolveTiers([
      { backend: "nvme", path: join(folder, "nvme"), capacity: 8 * MEBIBYTE, segment: MEBIBYTE / 2 },
      { backend: "posix", root: join(folder, "posix"), write: "none" },
    ]);
    const storage = await startStorage(tiers, { operationsMax: 16, batchKeysMax: 4096 }, silentLogger);
    ends.push(() => storage.close());
    const shape = { keyBytes: 12, blockBytes: BLOCK_BYTES, vllmFs: undefined };
    const { backend } = storage.createBackend(createNamespace(namespace), shape, sink);
    await open(backend);
    const blocks = 1000;
    for (let first = 0; first < blocks; first += PER_STORE) await store(backend, first);
    const lost = await missing(backend, blocks);
    await backend.close(); // counters are told at the end
    const onDrive = storage.tiers[0]?.counters().nvme_evicted_blocks_total ?? 0;
    expect(onDrive).toBeGreaterThan(350);
    expect(moved.get("cascade done")).toBeGreaterThan(0);
    expect(lost.length).toBeLessThanOrEqual(moved.get("cascade dropped") ?? 0);
  }, 60_000);
});

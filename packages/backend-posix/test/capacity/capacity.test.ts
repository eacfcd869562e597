import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, stat, truncate, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import {
  createMemoryRegion,
  createNamespace,
  type KeyBatch,
  keyAt,
  type Logger,
  LookupState,
  Outcome,
  outcomeCode,
  packedKeys,
  SharedRoot,
  silentLogger,
  slotBytes,
} from "@kvferry/core";
import { afterEach, describe, expect, it, vi } from "vitest";
import { PosixBackend, type PosixConfig } from "../../src/index.js";
import { Presence } from "../../src/presence.js";
import { namespaceFields } from "../crash-blocks.mjs";
import { blockPath, flipByte, isRoot, makeRoot, vllmFs } from "../storage.js";

const KEY_BYTES = 36;
const BLOCK_BYTES = 8192;
const FILE_BYTES = BLOCK_BYTES + 4096;
const ends: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  vi.restoreAllMocks();
  for (const end of ends.splice(0).reverse()) await end();
});

async function newRoot(tmpfsBytes?: number): Promise<string> {
  const { root, remove } = await makeRoot(tmpfsBytes);
  ends.push(remove);
  return root;
}

async function opened(root: string, config: Partial<PosixConfig> = {}, more: object = {}): Promise<PosixBackend> {
  const { logger = silentLogger, ...fields } = more as { logger?: Logger };
  const backend = new PosixBackend({ root, threads: 4, ...config });
  const namespace = createNamespace({ ...namespaceFields, ...fields });
  await backend.open({ namespace, keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES, logger });
  ends.push(() => backend.close());
  if (config.capacityBytes !== undefined) {
    await until("all is counted", () => backend.rootStatus?.count?.ready === true); // until then nothing is stored
  }
  return backend;
}

/** Keys first, first + 1, …: in a store, one chain. */
function keysFrom(first: number, count: number): KeyBatch {
  const bytes = Buffer.alloc(count * KEY_BYTES);
  for (let i = 0; i < count; i++) bytes.writeUInt32BE(((first + i) * 2654435761) >>> 0, i * KEY_BYTES);
  return packedKeys(bytes, KEY_BYTES);
}

function batchOf(keys: KeyBatch) {
  const region = createMemoryRegion(keys.count, BLOCK_BYTES);
  for (let i = 0; i < keys.count; i++) slotBytes(region, i).fill(keyAt(keys, i)[0] as number);
  return { keys, region, slots: Uint32Array.from({ length: keys.count }, (_, i) => i) };
}

async function store(backend: PosixBackend, first: number, count: number): Promise<number[]> {
  return [...(await backend.store(batchOf(keysFrom(first, count)))).outcomes];
}

async function lookup(backend: PosixBackend, first: number, count: number): Promise<number[]> {
  return [...(await backend.lookup(keysFrom(first, count)))];
}

/** Files below a folder that hold blocks. */
async function filesBelow(folder: string, suffix: string): Promise<string[]> {
  const names = await readdir(folder, { recursive: true }).catch(() => []);
  return names.filter((name) => name.endsWith(suffix));
}

async function until(what: string, done: () => Promise<boolean> | boolean): Promise<void> {
  for (let i = 0; i < 600; i++) {
    if (await done()) return;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  throw new Error(`in vain waited until ${what}`);
}

describe("a capacity", { timeout: 60_000 }, () => {
  it("lets blocks that are used stay, and takes a chain from its end, so that what stays can be reached", async () => {
    const root = await newRoot();
    const backend = await opened(root, { capacityBytes: 24 * FILE_BYTES, policy: "lru" });
    const gone: number[] = [];
    backend.onRemoved((keys, reason) => gone.push(reason === "evicted" ? keys.count : -1));
    expect(await store(backend, 0, 8)).toEqual(Array(8).fill(Outcome.STORED));
    expect(await store(backend, 100, 8)).toEqual(Array(8).fill(Outcome.STORED));
    await backend.load(batchOf(keysFrom(0, 8)));
    for (let round = 0; round < 3; round++) {
      expect(await store(backend, 200 + 10 * round, 4)).toEqual(Array(4).fill(Outcome.STORED));
      await backend.load(batchOf(keysFrom(0, 8)));
    }
    expect(await lookup(backend, 0, 8)).toEqual(Array(8).fill(LookupState.HIT));
    const left = await lookup(backend, 100, 8);
    expect(left.indexOf(LookupState.MISS)).toBeGreaterThanOrEqual(0);
    expect(left.slice(left.indexOf(LookupState.MISS))).not.toContain(LookupState.HIT);
    expect(gone.reduce((sum, count) => sum + count, 0)).toBe(left.filter((state) => state === LookupState.MISS).length);
  });

  it("still knows after a restart which blocks were used, and how they follow one another", async () => {
    const root = await newRoot();
    const config = { capacityBytes: 24 * FILE_BYTES, policy: "lru" } as const;
    const before = await opened(root, config);
    await store(before, 0, 8);
    await store(before, 100, 8);
    await new Promise((resolve) => setTimeout(resolve, 300)); // the index counts in eighths of a second
    await before.load(batchOf(keysFrom(0, 8)));
    await before.close();
    const backend = await opened(root, config);
    for (let round = 0; round < 3; round++) await store(backend, 200 + 10 * round, 4);
    expect(await lookup(backend, 0, 8)).toEqual(Array(8).fill(LookupState.HIT));
    const left = await lookup(backend, 100, 8);
    expect(left.slice(left.indexOf(LookupState.MISS))).not.toContain(LookupState.HIT);
  });

  it("is held by all namespaces of a root together, and counts what an earlier server left there", async () => {
    const root = await newRoot();
    const before = await opened(root);
    await store(before, 0, 10);
    await before.close();
    expect(existsSync(join(root, "capacity"))).toBe(false); // without a capacity nothing of this runs
    const config = { capacityBytes: 16 * FILE_BYTES };
    const first = await opened(root, config, { model: "one" });
    const second = await opened(root, config, { model: "two" });
    for (let round = 0; round < 6; round++) {
      for (const backend of [first, second]) {
        expect(await store(backend, 10 * round, 4)).toEqual(Array(4).fill(Outcome.STORED));
        expect((await filesBelow(root, ".kvb")).length).toBeLessThanOrEqual(16);
      }
    }
    const usage = [await first.usage(), await second.usage()];
    expect((usage[0]?.blocks ?? 0) + (usage[1]?.blocks ?? 0)).toBe((await filesBelow(root, ".kvb")).length);
    expect(first.rootStatus).toMatchObject({ leads: true, capacityBytes: config.capacityBytes });
    await until(
      "all is counted",
      () => first.rootStatus?.count?.counted.files === usage.reduce((sum, { blocks }) => sum + blocks, 0),
    );
  });

  it("tells all that is there where what was listed is forgotten in the middle of the listing", async () => {
    const root = await newRoot();
    const config = { capacityBytes: 200 * FILE_BYTES };
    const before = await opened(root, config);
    await store(before, 0, 64);
    await before.close();
    const join = vi.spyOn(SharedRoot.prototype, "join");
    const { addAll } = Presence.prototype;
    let leaves = 0;
    vi.spyOn(Presence.prototype, "addAll").mockImplementation(function (this: Presence, keys: KeyBatch): void {
      addAll.call(this, keys);
      if (++leaves === 8) join.mock.calls[0]?.[0].evictionsMissed(); // another process's word of evictions has been lost
    });
    const backend = new PosixBackend({ root, threads: 4, ...config });
    ends.push(() => backend.close());
    await backend.open({
      namespace: createNamespace(namespaceFields),
      keyBytes: KEY_BYTES,
      blockBytes: BLOCK_BYTES,
    });
    expect(await backend.usage()).toMatchObject({ blocks: 64, bytes: 64 * FILE_BYTES });
    expect(await lookup(backend, 0, 64)).toEqual(Array(64).fill(LookupState.HIT));
    expect(leaves).toBeGreaterThan(8);
  });

  it("can bound the number of files", async () => {
    const root = await newRoot();
    const backend = await opened(root, { capacityBytes: 1000 * FILE_BYTES, filesMax: 12 });
    for (let round = 0; round < 6; round++) {
      expect(await store(backend, 10 * round, 4)).toEqual(Array(4).fill(Outcome.STORED));
      expect((await filesBelow(root, ".kvb")).length).toBeLessThanOrEqual(12);
    }
  });

  it("drops with NO_SPACE what is larger than itself, and does not hold a store up for long", async () => {
    const root = await newRoot();
    const backend = await opened(root, { capacityBytes: FILE_BYTES - 1 });
    const result = await backend.store(batchOf(keysFrom(0, 2)));
    expect([...result.outcomes]).toEqual([Outcome.DROPPED, Outcome.DROPPED]);
    expect(outcomeCode(result, 1)).toBe("NO_SPACE");
  });

  it("takes a tenant's own blocks when its quota is full, and leaves the others'", async () => {
    const root = await newRoot();
    const config = { capacityBytes: 40 * FILE_BYTES, quotas: { guest: 8 * FILE_BYTES } };
    const guest = await opened(root, config, { tenant: "guest" });
    const owner = await opened(root, config, { tenant: "owner" });
    await store(owner, 0, 20);
    for (let round = 0; round < 8; round++) {
      expect(await store(guest, 100 + 10 * round, 4)).toEqual(Array(4).fill(Outcome.STORED));
      expect((await guest.usage()).blocks).toBeLessThanOrEqual(8);
    }
    expect(await lookup(owner, 0, 20)).toEqual(Array(20).fill(LookupState.HIT));
  });

  it("evicts below running loads without an outcome other than LOADED and MISS, and never with other bytes", async () => {
    const root = await newRoot();
    const backend = await opened(root, { capacityBytes: 64 * FILE_BYTES });
    let storing = true;
    const stores = (async () => {
      for (let round = 0; round < 60; round++) await store(backend, 16 * round, 16);
      storing = false;
    })();
    const seen = new Set<number>();
    while (storing) {
      const batch = batchOf(keysFrom(16 * Math.floor(Math.random() * 60), 16));
      batch.region.bytes.fill(0);
      const { outcomes } = await backend.load(batch);
      for (const [i, outcome] of outcomes.entries()) {
        seen.add(outcome);
        if (outcome !== Outcome.LOADED) continue;
        const expected = Buffer.alloc(BLOCK_BYTES, keyAt(batch.keys, i)[0]);
        expect(Buffer.compare(slotBytes(batch.region, i), expected)).toBe(0);
      }
    }
    await stores;
    for (const outcome of seen) expect([Outcome.LOADED, Outcome.MISS]).toContain(outcome);
    expect((await filesBelow(root, ".kvb")).length).toBeLessThanOrEqual(64);
  });

  it("counts what is in the quarantine, and blocks that someone else has cut", async () => {
    const root = await newRoot();
    const backend = await opened(root, { capacityBytes: 16 * FILE_BYTES });
    await store(backend, 0, 12);
    const keys = keysFrom(0, 2);
    await flipByte(blockPath(root, backend, keyAt(keys, 0)), 5);
    await truncate(blockPath(root, backend, keyAt(keys, 1)), 100);
    expect([...(await backend.load(batchOf(keys))).outcomes]).toEqual([Outcome.CORRUPT, Outcome.CORRUPT]);
    for (let round = 1; round < 6; round++) {
      expect(await store(backend, 100 * round, 4)).toEqual(Array(4).fill(Outcome.STORED));
      expect((await filesBelow(root, ".kvb")).length).toBeLessThanOrEqual(16); // quarantined files are called so too
    }
  });

  it("bounds vLLM's directory as well, with the files that vLLM wrote there", async () => {
    const root = await newRoot();
    const folder = join(root, `${vllmFs.base}_r0`);
    const probe = { context: { namespace: { digestHex: "" } } } as unknown as PosixBackend;
    for (let i = 0; i < 6; i++) {
      const path = blockPath(root, probe, keyAt(keysFrom(1000 + i, 1), 0), "vllm-fs");
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, Buffer.alloc(BLOCK_BYTES, 7));
    }
    const backend = await opened(root, { layout: "vllm-fs", vllmFs, capacityBytes: 12 * FILE_BYTES });
    for (let round = 0; round < 5; round++) {
      expect(await store(backend, 10 * round, 4)).toEqual(Array(4).fill(Outcome.STORED));
      const files = await filesBelow(folder, ".bin");
      const sizes = await Promise.all(files.map(async (name) => (await stat(join(folder, name))).size));
      expect(sizes.reduce((sum, size) => sum + size, 0)).toBeLessThanOrEqual(12 * FILE_BYTES);
    }
    expect(await lookup(backend, 40, 4)).toEqual(Array(4).fill(LookupState.HIT));
  });

  it("survives random bytes, nothing, and far too many bytes in its own files, with a warning", async () => {
    const root = await newRoot();
    const warnings: string[] = [];
    const logger: Logger = { ...silentLogger, warn: (_, message) => void warnings.push(message) };
    const config = { capacityBytes: 16 * FILE_BYTES };
    let backend = await opened(root, config, { logger });
    const folder = join(root, "capacity");
    await store(backend, 0, 8);
    for (const spoil of [randomBytesOf, () => Buffer.alloc(0), () => Buffer.alloc(3 << 20, 0x7b)]) {
      for (let round = 0; round < 2; round++) {
        for (const name of await readdir(folder)) {
          const path = join(folder, name);
          const old = await readFile(path).catch(() => undefined); // a folder, or gone
          if (old !== undefined) await writeFile(path, spoil(old.length));
        }
        await writeFile(join(folder, "someone-else's file"), spoil(50));
        let stored = 0;
        await until("stores go on", async () => {
          stored += (await store(backend, Math.floor(Math.random() * 1e6), 4)).filter(
            (o) => o === Outcome.STORED,
          ).length;
          expect((await filesBelow(root, ".kvb")).length).toBeLessThanOrEqual(16);
          return stored >= 8;
        });
        if (round > 0) continue;
        await backend.close();
        backend = await opened(root, config, { logger });
      }
    }
    expect(warnings.length).toBeGreaterThan(0);
  });

  it.skipIf(!isRoot)(
    "beyond what the disk has: stores fail with NO_SPACE, loads go on, and stores too once there is space",
    async () => {
      const root = await newRoot(2 << 20);
      const backend = await opened(root, { capacityBytes: 1000 * FILE_BYTES });
      await store(backend, 0, 8);
      const filler = join(dirname(root), "filler");
      await writeFile(filler, Buffer.alloc(8 << 20)).catch(() => {});
      const full = await store(backend, 100, 8);
      expect(full).not.toContain(Outcome.STORED);
      expect([...(await backend.load(batchOf(keysFrom(0, 8)))).outcomes]).toEqual(Array(8).fill(Outcome.LOADED));
      await truncate(filler, 0);
      await until("stores go on", async () => (await store(backend, 200, 8)).includes(Outcome.STORED));
    },
  );
});

function randomBytesOf(length: number): Buffer {
  return Buffer.from(Array.from({ length: Math.min(length, 1 << 16) }, () => Math.floor(Math.random() * 256)));
}

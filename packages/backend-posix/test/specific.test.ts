import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, stat, truncate, utimes, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import {
  createMemoryRegion,
  createNamespace,
  type KeyBatch,
  keyAt,
  LookupState,
  type Namespace,
  newWriterName,
  Outcome,
  outcomeCode,
  packedKeys,
  slotBytes,
} from "@kvferry/core";
import { crc32c } from "@kvferry/native";
import fc from "fast-check";
import { afterEach, describe, expect, it } from "vitest";
import { PosixBackend, type PosixConfig } from "../src/index.js";
import { namespaceFields } from "./crash-blocks.mjs";
import { blockPath, flipByte, makeRoot, vllmFs } from "./storage.js";

const KEY_BYTES = 36;
const BLOCK_BYTES = 8192;
const ROWS = 64;
const ends: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

async function newRoot(): Promise<string> {
  const { root, remove } = await makeRoot();
  ends.push(remove);
  return root;
}

async function opened(root: string, config: Partial<PosixConfig> = {}, fields: object = {}): Promise<PosixBackend> {
  const backend = new PosixBackend({ root, threads: 4, ...config });
  const namespace: Namespace = createNamespace({ ...namespaceFields, ...fields });
  await backend.open({ namespace, keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES });
  ends.push(() => backend.close());
  return backend;
}

/** Keys first, first + 1, … with hashes that differ in their first bytes. */
function keysFrom(first: number, count: number): KeyBatch {
  const bytes = Buffer.alloc(count * KEY_BYTES);
  for (let i = 0; i < count; i++) bytes.writeUInt32BE(((first + i) * 2654435761) >>> 0, i * KEY_BYTES);
  return packedKeys(bytes, KEY_BYTES);
}

/** A batch whose slots hold bytes that follow from the key. */
function batchOf(keys: KeyBatch) {
  const region = createMemoryRegion(ROWS, BLOCK_BYTES);
  for (let i = 0; i < keys.count; i++) slotBytes(region, i).fill(keyAt(keys, i)[0] as number);
  return { keys, region, slots: Uint32Array.from({ length: keys.count }, (_, i) => i) };
}

/** Loads into zeroed slots; fails if a LOADED slot has not the bytes of `batchOf`. */
async function load(backend: PosixBackend, keys: KeyBatch) {
  const batch = { ...batchOf(keys), region: createMemoryRegion(ROWS, BLOCK_BYTES) };
  const result = await backend.load(batch);
  for (let i = 0; i < keys.count; i++) {
    if (result.outcomes[i] !== Outcome.LOADED) continue;
    const expected = Buffer.alloc(BLOCK_BYTES, keyAt(keys, i)[0]);
    expect(Buffer.compare(slotBytes(batch.region, i), expected)).toBe(0);
  }
  return result;
}

describe("files", () => {
  it("have the place, the bytes and the modes of docs/block-format.md, so that other tools and versions can read them", async () => {
    const root = await newRoot();
    const backend = await opened(root);
    const keys = keysFrom(77, 1);
    await backend.store(batchOf(keys));
    const path = blockPath(root, backend, keyAt(keys, 0));
    const file = await readFile(path);
    expect(file.length).toBe(BLOCK_BYTES + 4096);
    const payload = file.subarray(0, BLOCK_BYTES);
    const footer = file.subarray(BLOCK_BYTES);
    expect(footer.subarray(0, 8).toString("latin1")).toBe("KVFERRY\x01");
    expect([footer.readUInt32LE(8), footer.readUInt32LE(12)]).toEqual([1, 4096]);
    expect(Number(footer.readBigUInt64LE(16))).toBe(BLOCK_BYTES);
    expect([footer.readUInt16LE(24), footer.readUInt16LE(26), footer.readUInt32LE(28)]).toEqual([0, 1, KEY_BYTES]);
    expect(Number(footer.readBigUInt64LE(32))).toBe(crc32c(payload));
    expect(Math.abs(Number(footer.readBigUInt64LE(40)) - Date.now())).toBeLessThan(60_000);
    expect(footer.subarray(48, 80)).toEqual(Buffer.from(backend.context.namespace.digest));
    expect(footer.subarray(80, 80 + KEY_BYTES)).toEqual(Buffer.from(keyAt(keys, 0)));
    expect(footer.readUInt32LE(4092)).toBe(crc32c(footer.subarray(0, 4092)));
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    expect((await stat(dirname(path))).mode & 0o777).toBe(0o700);
    const described = JSON.parse(
      await readFile(join(root, backend.context.namespace.digestHex, "namespace.json"), "utf8"),
    );
    expect(createNamespace(described.fields).digestHex).toBe(backend.context.namespace.digestHex);
  });

  it("that were flipped or cut at 1,000 random places are never LOADED with other bytes", {
    timeout: 120_000,
  }, async () => {
    const root = await newRoot();
    const backend = await opened(root);
    const fileBytes = BLOCK_BYTES + 4096;
    let round = 0;
    await fc.assert(
      fc.asyncProperty(fc.nat(fileBytes - 1), fc.boolean(), async (at, cut) => {
        const keys = keysFrom(1 + round++, 1);
        expect((await backend.store(batchOf(keys))).outcomes[0]).toBe(Outcome.STORED);
        const path = blockPath(root, backend, keyAt(keys, 0));
        await (cut ? truncate(path, at) : flipByte(path, at));
        const { outcomes } = await load(backend, keys);
        expect(outcomes[0] === Outcome.CORRUPT || (cut && at === BLOCK_BYTES && outcomes[0] === Outcome.MISS)).toBe(
          true,
        );
        expect([...(await backend.lookup(keys))]).toEqual([LookupState.MISS]);
      }),
      { numRuns: 1000 },
    );
    const { quarantine } = { quarantine: join(root, backend.context.namespace.digestHex, "quarantine") };
    expect((await readdir(quarantine)).length).toBeLessThanOrEqual(64);
  });
});

describe("a folder filled by vLLM's fs tier", () => {
  /** What vLLM writes: the payload alone. */
  async function leaveVllmFile(root: string, keys: KeyBatch): Promise<void> {
    const probe = { context: { namespace: { digestHex: "" } } } as unknown as PosixBackend;
    const path = blockPath(root, probe, keyAt(keys, 0), "vllm-fs");
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, Buffer.alloc(BLOCK_BYTES, keyAt(keys, 0)[0]));
  }

  it("is taken over with adopt, which a fleet needs to move with a warm cache", async () => {
    const root = await newRoot();
    const keys = keysFrom(5, 1);
    await leaveVllmFile(root, keys);
    const backend = await opened(root, { layout: "vllm-fs", vllmFs, adopt: true });
    expect([...(await backend.lookup(keys))]).toEqual([LookupState.HIT]);
    expect([...(await load(backend, keys)).outcomes]).toEqual([Outcome.LOADED]);
    expect([...(await backend.store(batchOf(keys))).outcomes]).toEqual([Outcome.PRESENT]);
    expect(await backend.usage()).toMatchObject({ blocks: 1, bytes: BLOCK_BYTES });
  });

  it("counts as empty without adopt, and its files are replaced by ones that verify", async () => {
    const root = await newRoot();
    const keys = keysFrom(5, 1);
    await leaveVllmFile(root, keys);
    const backend = await opened(root, { layout: "vllm-fs", vllmFs });
    expect([...(await backend.lookup(keys))]).toEqual([LookupState.MISS]);
    expect([...(await load(backend, keys)).outcomes]).toEqual([Outcome.MISS]);
    expect([...(await backend.store(batchOf(keys))).outcomes]).toEqual([Outcome.STORED]);
    expect([...(await load(backend, keys)).outcomes]).toEqual([Outcome.LOADED]);
    const config = await readFile(join(root, vllmFs.base, "config.json"), "utf8");
    expect(config).toBe(vllmFs.config);
  });

  it("never gives the blocks of other weights, whose paths are the same", async () => {
    const root = await newRoot();
    const keys = keysFrom(9, 2);
    const old = await opened(root, { layout: "vllm-fs", vllmFs }, { weights: "11".repeat(32) });
    await old.store(batchOf(keys));
    const fresh = await opened(root, { layout: "vllm-fs", vllmFs }, { weights: "22".repeat(32) });
    const loaded = await load(fresh, keys);
    expect([...loaded.outcomes]).toEqual([Outcome.MISS, Outcome.MISS]);
    expect(outcomeCode(loaded, 0)).toBe("NAMESPACE_MISMATCH");
    expect([...(await fresh.store(batchOf(keys))).outcomes]).toEqual([Outcome.STORED, Outcome.STORED]);
    expect([...(await load(fresh, keys)).outcomes]).toEqual([Outcome.LOADED, Outcome.LOADED]);
  });
});

describe("several processes over one folder", () => {
  it("find each other's blocks, whoever came first", async () => {
    const root = await newRoot();
    const a = await opened(root);
    await a.store(batchOf(keysFrom(1, 4)));
    const b = await opened(root);
    await b.store(batchOf(keysFrom(101, 4)));
    for (const backend of [a, b]) {
      for (const keys of [keysFrom(1, 4), keysFrom(101, 4)]) {
        expect([...(await backend.lookup(keys))]).toEqual([1, 1, 1, 1]);
        expect([...(await load(backend, keys)).outcomes]).toEqual(Array(4).fill(Outcome.LOADED));
      }
      expect((await backend.usage()).blocks).toBe(8);
    }
  });

  it("still find what one stored that has gone since", async () => {
    const root = await newRoot();
    const a = await opened(root);
    const b = await opened(root);
    await b.store(batchOf(keysFrom(1, 4)));
    await b.close();
    await new Promise((resolve) => setTimeout(resolve, 400)); // a knows now that it is alone
    expect([...(await a.lookup(keysFrom(1, 5)))]).toEqual([1, 1, 1, 1, 0]);
  });

  it("lose nothing of a living writer, and clean up after dead ones and after other hosts' an hour later", async () => {
    const root = await newRoot();
    const first = await opened(root);
    const writers = join(root, first.context.namespace.digestHex, "tmp");
    const living = newWriterName();
    const leftovers = {
      dead: living.replace(/-\d+-(\d+)-/, "-4194304-$1-"),
      reused: living.replace(/-\d+-([0-9a-f]{12})$/, "-1-$1"),
    };
    const [recent, old] = ["elsewhere.01234567-12-34-0123456789ab", "elsewhere.01234567-12-35-0123456789ab"];
    for (const name of [living, ...Object.values(leftovers), recent, old]) {
      await mkdir(join(writers, name));
      await writeFile(join(writers, name, "0"), "half a block");
    }
    const past = Date.now() / 1000 - 2 * 60 * 60;
    await utimes(join(writers, old), past, past);
    await opened(root);
    const left = await readdir(writers);
    expect(left).toContain(living);
    expect(left).toContain(recent);
    for (const gone of [...Object.values(leftovers), old]) expect(left).not.toContain(gone);
  });
});

describe("bounds and settings", () => {
  it("hold the capacity, counting what was there before", async () => {
    const root = await newRoot();
    const capacityBytes = 6 * (BLOCK_BYTES + 4096);
    const before = await opened(root);
    await before.store(batchOf(keysFrom(1, 4)));
    await before.close();
    const backend = await opened(root, { capacityBytes });
    const result = await backend.store(batchOf(keysFrom(101, 4)));
    expect([...result.outcomes]).toEqual(Array(4).fill(Outcome.STORED));
    const usage = await backend.usage();
    expect(usage).toEqual({ bytes: usage.blocks * (BLOCK_BYTES + 4096), blocks: usage.blocks, capacityBytes });
    expect(usage.blocks).toBeLessThanOrEqual(6); // two or more of the first four had to go
    expect([...(await backend.lookup(keysFrom(101, 4)))]).toEqual(Array(4).fill(LookupState.HIT));
  });

  it.each([
    [{ root: "relative" }, "root"],
    [{ layout: "other" }, "layout"],
    [{ layout: "vllm-fs" }, "vllmFs"],
    [{ layout: "vllm-fs", vllmFs: { ...vllmFs, base: "../../etc_0123456789ab" } }, "vllmFs.base"],
    [{ layout: "vllm-fs", vllmFs: { ...vllmFs, rank: -1 } }, "vllmFs.rank"],
    [{ capacityBytes: 0 }, "capacityBytes"],
    [{ filesMax: 10 }, "filesMax"],
    [{ capacityBytes: 1, policy: "other" }, "policy"],
    [{ capacityBytes: 1, quotas: { a: 0 } }, "quotas.a"],
    [{ capacityBytes: 1, quotas: { a: 1 }, layout: "vllm-fs", vllmFs }, "quotas"],
    [{ fileMode: 0o1777 }, "fileMode"],
  ])("refuse %j and name the field", (config, field) => {
    expect(() => new PosixBackend({ root: "/tmp/never-made", ...config } as PosixConfig)).toThrow(
      expect.objectContaining({ code: "CONFIG_INVALID", context: expect.objectContaining({ field }) }),
    );
    expect(existsSync("/tmp/never-made")).toBe(false);
  });

  it("say what is wrong with a root that is a file", async () => {
    const root = await newRoot();
    await writeFile(root, "");
    const backend = new PosixBackend({ root });
    const context = { namespace: createNamespace(namespaceFields), keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES };
    await expect(backend.open(context)).rejects.toMatchObject({
      name: "KvferryError",
      context: { path: expect.stringContaining(root) },
    });
  });
});

import {
  createMemoryRegion,
  keyAt,
  keyHex,
  LookupState,
  Outcome,
  outcomeCode,
  silentLogger,
  slotBytes,
  storedBlockBytes,
} from "@kvferry/core";
import { afterEach, expect, it } from "vitest";
import { S3Backend, type S3Config } from "../../src/index.js";
import { batchOf, filled, KEY_BYTES, keysOf, namespaceOf, sameBytes } from "../fixtures.js";
import { describeServers } from "../servers.js";
import { blocksIn } from "./listing.js";
import { TEST_PACE } from "./pace.mjs";

const BLOCK_BYTES = 8192;
/** Of 16 blocks, where 48 have room. */
const ROUNDS = 12;
const FILE_BYTES = storedBlockBytes(BLOCK_BYTES);

const ends: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

async function until(what: string, done: () => Promise<boolean> | boolean): Promise<void> {
  for (let i = 0; i < 1200; i++) {
    if (await done()) return;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  throw new Error(`in vain waited until ${what}`);
}

function range(first: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => first + i);
}

async function store(backend: S3Backend, first: number, count: number, blockBytes = BLOCK_BYTES): Promise<number[]> {
  const ids = range(first, count);
  return [...(await backend.store(batchOf(ids, filled(ids, blockBytes)))).outcomes];
}

describeServers("a capacity in s3", (server) => {
  async function opened(bucket: string, config: Partial<S3Config>, tenant = "t"): Promise<S3Backend> {
    const backend = new S3Backend(server().config(bucket, config), TEST_PACE);
    const namespace = namespaceOf(tenant);
    await backend.open({ namespace, keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES, logger: silentLogger });
    ends.push(() => backend.close());
    return backend;
  }

  async function counted(backend: S3Backend): Promise<void> {
    await until("all is counted", () => backend.rootStatus?.count?.ready === true);
  }

  it("makes room by what was used longest ago, from the end of a chain, and announces it", async () => {
    const backend = await opened(await server().bucket(), { capacityBytes: 24 * FILE_BYTES, policy: "lru" });
    const gone: string[] = [];
    backend.onRemoved((keys, reason) => {
      for (let i = 0; i < keys.count; i++) gone.push(`${reason} ${keyHex(keyAt(keys, i))}`);
    });
    await counted(backend);
    expect(await store(backend, 0, 8)).toEqual(Array(8).fill(Outcome.STORED));
    expect(await store(backend, 100, 8)).toEqual(Array(8).fill(Outcome.STORED));
    const region = createMemoryRegion(8, BLOCK_BYTES);
    for (let round = 0; round < 3; round++) {
      await backend.load(batchOf(range(0, 8), region));
      expect(await store(backend, 200 + 10 * round, 4)).toEqual(Array(4).fill(Outcome.STORED));
    }
    expect([...(await backend.lookup(keysOf(range(0, 8))))]).toEqual(Array(8).fill(LookupState.HIT));
    const left = [...(await backend.lookup(keysOf(range(100, 8))))];
    const firstGone = left.indexOf(LookupState.MISS);
    expect(firstGone).toBeGreaterThanOrEqual(0);
    expect(left.slice(firstGone)).not.toContain(LookupState.HIT);
    const expected = range(100 + firstGone, 8 - firstGone).map((id) => `evicted ${keyHex(keyAt(keysOf([id]), 0))}`);
    expect(gone.sort()).toEqual(expected.sort());
  });

  it("is held by all namespaces and processes' roots together, and counts what was there before", async () => {
    const bucket = await server().bucket();
    const before = await opened(bucket, {}, "earlier");
    await store(before, 0, 10);
    await before.close();
    const config = { capacityBytes: 16 * FILE_BYTES };
    const first = await opened(bucket, config, "one");
    const second = await opened(bucket, config, "two");
    await counted(first);
    for (let round = 0; round < 4; round++) {
      for (const backend of [first, second]) {
        expect(await store(backend, 10 * round, 4)).toEqual(Array(4).fill(Outcome.STORED));
        expect(await blocksIn(server(), bucket)).toBeLessThanOrEqual(16);
      }
    }
    expect(first.rootStatus).toMatchObject({ leads: true, capacityBytes: config.capacityBytes });
    const there = await blocksIn(server(), bucket);
    await until("the leader has counted it", () => first.rootStatus?.count?.counted.files === there);
    const usage = [await first.usage(), await second.usage()];
    expect(usage[0]?.capacityBytes).toBe(config.capacityBytes);
  });

  it("can bound the number of objects", async () => {
    const bucket = await server().bucket();
    const backend = await opened(bucket, { capacityBytes: 1000 * FILE_BYTES, objectsMax: 12 });
    await counted(backend);
    for (let round = 0; round < 4; round++) {
      expect(await store(backend, 10 * round, 4)).toEqual(Array(4).fill(Outcome.STORED));
      expect(await blocksIn(server(), bucket)).toBeLessThanOrEqual(12);
    }
  });

  it("takes a tenant's own blocks when its quota is full, and leaves the others'", async () => {
    const bucket = await server().bucket();
    const config = { capacityBytes: 40 * FILE_BYTES, quotas: { guest: 8 * FILE_BYTES } };
    const owner = await opened(bucket, config, "owner");
    const guest = await opened(bucket, config, "guest");
    await counted(owner);
    await store(owner, 0, 12);
    for (let round = 0; round < 4; round++) {
      expect(await store(guest, 100 + 10 * round, 4)).toEqual(Array(4).fill(Outcome.STORED));
      expect(await blocksIn(server(), bucket)).toBeLessThanOrEqual(20);
    }
    expect([...(await owner.lookup(keysOf(range(0, 12))))]).toEqual(Array(12).fill(LookupState.HIT));
    expect((await guest.usage()).blocks).toBeLessThanOrEqual(8);
  });

  it("drops with NO_SPACE what is larger than itself", async () => {
    const backend = await opened(await server().bucket(), { capacityBytes: FILE_BYTES - 1 });
    const result = await backend.store(batchOf([1], filled([1], BLOCK_BYTES)));
    expect([...result.outcomes]).toEqual([Outcome.DROPPED]);
    expect(outcomeCode(result, 0)).toBe("NO_SPACE");
  });

  it("evicts below running loads: they are LOADED with the right bytes, or MISS", { timeout: 120_000 }, async () => {
    const bucket = await server().bucket();
    const backend = await opened(bucket, { capacityBytes: 48 * FILE_BYTES });
    await counted(backend);
    let storing = true;
    const stores = (async () => {
      for (let round = 0; round < ROUNDS; round++) await store(backend, 16 * round, 16);
      storing = false;
    })();
    const seen = new Set<number>();
    while (storing) {
      const ids = range(16 * Math.floor(Math.random() * ROUNDS), 16);
      const expected = filled(ids, BLOCK_BYTES);
      const region = createMemoryRegion(16, BLOCK_BYTES);
      const { outcomes } = await backend.load(batchOf(ids, region));
      for (const [i, outcome] of outcomes.entries()) {
        seen.add(outcome);
        if (outcome === Outcome.LOADED) expect(sameBytes(slotBytes(region, i), slotBytes(expected, i))).toBe(true);
      }
    }
    await stores;
    expect(seen.has(Outcome.LOADED)).toBe(true);
    for (const outcome of seen) expect([Outcome.LOADED, Outcome.MISS]).toContain(outcome);
    expect(await blocksIn(server(), bucket)).toBeLessThanOrEqual(48);
  });
});

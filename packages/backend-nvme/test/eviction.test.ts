import { existsSync } from "node:fs";
import { type KeyBatch, keyAt, LookupState, Outcome, packKeys } from "@kvferry/core";
import { afterEach, describe, expect, it } from "vitest";
import type { NvmeBackend } from "../src/index.js";
import { batchOf, count, keysFrom, load, namespaceOf } from "./blocks.js";
import { numberOf } from "./crash-blocks.mjs";
import { HEADER_BYTES, MIB, TestDrive } from "./drives.js";

const BLOCK_BYTES = 16 * 1024;
const ends: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

async function opened(...args: Parameters<typeof TestDrive.open>): Promise<TestDrive> {
  const test = await TestDrive.open(...args);
  ends.push(() => test.remove());
  return test;
}

/** Stores blocks first … first + count - 1, a few at a time, all of which must be taken. */
async function fill(backend: NvmeBackend, first: number, blocks: number, perBatch = 8): Promise<void> {
  for (let at = first; at < first + blocks; at += perBatch) {
    const { outcomes } = await backend.store(batchOf(keysFrom(at, perBatch), backend.context.blockBytes));
    expect(count(outcomes, Outcome.STORED)).toBe(perBatch);
  }
}

async function hits(backend: NvmeBackend, keys: KeyBatch): Promise<number> {
  return count(await backend.lookup(keys), LookupState.HIT);
}

/** Numbers of the keys that `onRemoved` tells of. */
function removedFrom(backend: NvmeBackend): Set<number> {
  const removed = new Set<number>();
  backend.onRemoved((keys, reason) => {
    expect(reason).toBe("evicted");
    for (let i = 0; i < keys.count; i++) removed.add(numberOf(keyAt(keys, i)));
  });
  return removed;
}

describe("a full drive", () => {
  it("takes ten times what it holds in the same file of the same size, and says what it let go", {
    timeout: 60_000,
  }, async () => {
    const test = await opened();
    const backend = await test.backend(BLOCK_BYTES);
    const removed = removedFrom(backend);
    const { capacityBytes } = test.config;
    const before = await test.fileBytes();
    expect(before).toBeLessThanOrEqual(capacityBytes);
    const blocks = Math.ceil((10 * capacityBytes) / BLOCK_BYTES / 8) * 8;
    for (let at = 0; at < blocks; at += 80) {
      await fill(backend, at, 80);
      expect(await test.fileBytes()).toBe(before);
      const { bytes } = await backend.usage();
      expect(bytes).toBeLessThanOrEqual(capacityBytes);
    }
    const usage = await backend.usage();
    expect(usage.blocks + removed.size).toBe(blocks);
    expect(usage.bytes).toBeGreaterThan(capacityBytes / 2);
    const all = keysFrom(0, blocks);
    const states = await backend.lookup(all);
    for (let i = 0; i < blocks; i++) expect(states[i]).toBe(removed.has(i) ? LookupState.MISS : LookupState.HIT);
    expect(count(await load(backend, all), Outcome.LOADED)).toBe(usage.blocks);
    expect(test.drive.counters().bytesWrittenByReinsertion).toBe(0);
  });

  it("keeps what is used, and lets go what is not", async () => {
    const test = await opened();
    const backend = await test.backend(BLOCK_BYTES);
    await fill(backend, 0, 64);
    const used = packKeys([3, 17, 18, 40, 63].map((n) => keyAt(keysFrom(n, 1), 0)));
    for (let round = 1; round <= 20; round++) {
      expect(count(await load(backend, used), Outcome.LOADED)).toBe(5);
      await fill(backend, round * 1000, 64);
    }
    expect(await hits(backend, used)).toBe(5);
    expect(await hits(backend, keysFrom(0, 64))).toBe(4 + 3 + 1 + 8); // with what comes before them in their stores
    const { blocksReinserted, writeAmplification } = test.drive.counters();
    expect(blocksReinserted).toBeGreaterThanOrEqual(15);
    expect(writeAmplification).toBeLessThan(1.5);
  });

  it("copies nothing where all is used alike, in whatever order and parts it is loaded", async () => {
    const test = await opened();
    const backend = await test.backend(BLOCK_BYTES);
    for (let round = 0; round < 20; round++) {
      await fill(backend, round * 1000, 64);
      for (let at = 60; at >= 0; at -= 4) await load(backend, keysFrom(round * 1000 + at, 4));
    }
    expect(test.drive.counters().segmentsEvicted).toBeGreaterThan(5);
    expect(test.drive.counters().blocksReinserted).toBe(0);
  });

  it("keeps the blocks before a used one in its chain, without which nobody finds it", async () => {
    const test = await opened();
    const backend = await test.backend(BLOCK_BYTES);
    await fill(backend, 0, 12, 12); // a chain
    await fill(backend, 500, 12, 12); // another
    for (let round = 1; round <= 10; round++) {
      await load(backend, keysFrom(11, 1)); // its end alone: a faster tier has the rest
      await fill(backend, round * 1000, 64);
    }
    expect(await hits(backend, keysFrom(0, 12))).toBe(12);
    expect(await hits(backend, keysFrom(500, 12))).toBe(0);
  });

  it("keeps at most half of a segment, however much is used", async () => {
    const test = await opened();
    const backend = await test.backend(BLOCK_BYTES);
    for (let at = 0; at < 1000; at += 8) {
      await fill(backend, at, 8);
      await load(backend, keysFrom(Math.max(0, at - 80), 88));
    }
    const { writeAmplification, segmentsEvicted } = test.drive.counters();
    expect(segmentsEvicted).toBeGreaterThan(10);
    expect(writeAmplification).toBeLessThan(2.3);
  });

  it("takes the largest block that a segment can hold, however much of the others is used", async () => {
    const test = await opened();
    const largestBytes = MIB / 2 - 8 * 4096;
    const backend = await test.backend(largestBytes);
    const small = await test.backend(4096, { namespace: namespaceOf({ tenant: "small" }) });
    await fill(small, 0, 1280, 80);
    const used = keysFrom(1100, 60); // the others are not: less than most
    for (let at = 0; at < 24; at++) {
      for (let uses = 0; uses < 4; uses++) await load(small, used);
      const { outcomes } = await backend.store(batchOf(keysFrom(at, 1), largestBytes), { deadlineMs: 5000 });
      expect([...outcomes]).toEqual([Outcome.STORED]);
    }
    expect(count(await load(backend, keysFrom(23, 1)), Outcome.LOADED)).toBe(1);
    expect(test.drive.counters().blocksReinserted).toBe(0); // copies have left it the room of a segment just opened
  });
});

describe("namespaces on one drive", () => {
  it("share its room and nothing else", async () => {
    const test = await opened();
    const a = await test.backend(BLOCK_BYTES);
    const b = await test.backend(BLOCK_BYTES, { namespace: namespaceOf({ tenant: "b" }) });
    const larger = await test.backend(2 * BLOCK_BYTES, { namespace: namespaceOf() });
    await fill(a, 0, 8);
    expect(await hits(b, keysFrom(0, 8))).toBe(0);
    expect(await hits(larger, keysFrom(0, 8))).toBe(0);
    expect((await b.usage()).blocks).toBe(0);
    await fill(b, 0, 8);
    expect(count(await load(a, keysFrom(0, 8)), Outcome.LOADED)).toBe(8);
    await b.remove(keysFrom(0, 8));
    expect(count(await load(a, keysFrom(0, 8)), Outcome.LOADED)).toBe(8);
    await fill(b, 1000, 800);
    expect(await hits(a, keysFrom(0, 8))).toBeLessThanOrEqual(8);
    expect((await a.usage()).blocks).toBe(await hits(a, keysFrom(0, 8)));
  });
});

describe("settings of a drive", () => {
  const folder = "/tmp/kvferry-never-made";
  const capacityBytes = HEADER_BYTES + 64 * MIB;

  it.each([
    [{ path: "relative" }, "path"],
    [{ capacityBytes: 0 }, "capacityBytes"],
    [{ capacityBytes: 2 ** 45 }, "capacityBytes"],
    [{ capacityBytes: HEADER_BYTES + 3 * MIB, segmentBytes: MIB }, "capacityBytes"],
    [{ segmentBytes: 100_000 }, "segmentBytes"],
    [{ direct: "perhaps" }, "direct"],
    [{ ioUring: "perhaps" }, "ioUring"],
    [{ queueDepth: 0 }, "queueDepth"],
    [{ dailyWriteBytesMax: -1 }, "dailyWriteBytesMax"],
    [{ fileMode: 0o1777 }, "fileMode"],
  ])("are refused where they make no sense: %j", async (config, field) => {
    const wrong = { path: folder, capacityBytes, ...config } as never;
    const error = expect.objectContaining({ code: "CONFIG_INVALID", context: expect.objectContaining({ field }) });
    const { NvmeBackend: Backend } = await import("../src/index.js");
    expect(() => new Backend(wrong)).toThrow(error as never);
    expect(existsSync(folder)).toBe(false);
  });

  it("are refused where a block does not fit into a segment, and say what would do", async () => {
    const test = await opened();
    await expect(test.backend(MIB)).rejects.toMatchObject({
      code: "CONFIG_INVALID",
      context: { field: "segmentBytes", segmentBytes: MIB / 2 },
      message: expect.stringMatching(/at least 10\d{5}/),
    });
  });
});

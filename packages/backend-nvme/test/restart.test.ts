import { execFileSync } from "node:child_process";
import { chmod, mkdir, mkdtemp, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type KvferryError, LookupState, type Namespace, Outcome } from "@kvferry/core";
import { afterEach, describe, expect, it } from "vitest";
import { NvmeBackend, type NvmeDriveConfig, openNvmeDrive } from "../src/index.js";
import { batchOf, count, keysFrom, load, namespaceOf } from "./blocks.js";
import { KEY_BYTES } from "./crash-blocks.mjs";
import { HEADER_BYTES, MIB, smallDrive, TestClock, TestDrive } from "./drives.js";

const BLOCK_BYTES = 16 * 1024;
const HOUR_MS = 60 * 60 * 1000;
const isRoot = process.getuid?.() === 0;
const ends: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

async function opened(...args: Parameters<typeof TestDrive.open>): Promise<TestDrive> {
  const test = await TestDrive.open(...args);
  ends.push(() => test.remove());
  return test;
}

async function newFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "kvferry-nvme-"));
  ends.push(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** What opening a drive says. */
async function refusal(config: NvmeDriveConfig): Promise<KvferryError> {
  try {
    await (await openNvmeDrive(config)).close();
  } catch (thrown) {
    return thrown as KvferryError;
  }
  throw new Error("it was opened");
}

describe("a drive that is opened again", () => {
  it("has all namespaces as they were, and goes on where it was", async () => {
    const test = await opened();
    const tenants = ["a", "b", "c"].map((tenant) => namespaceOf({ tenant }));
    for (const [i, namespace] of tenants.entries()) {
      const backend = await test.backend(BLOCK_BYTES, { namespace });
      await backend.store(batchOf(keysFrom(i * 100, 5), BLOCK_BYTES));
    }
    for (let round = 0; round < 5; round++) {
      const free = test.drive.counters().segmentsFree;
      await test.reopen();
      expect(test.drive.counters().segmentsFree).toBe(free); // a restart wastes no segment
      for (const [i, namespace] of tenants.entries()) {
        const backend = await test.backend(BLOCK_BYTES, { namespace });
        expect(count(await load(backend, keysFrom(i * 100, 5)), Outcome.LOADED)).toBe(5);
        expect((await backend.usage()).blocks).toBe(5);
      }
    }
  });

  it("knows when blocks were stored", async () => {
    const clock = new TestClock();
    const test = await opened({}, { clock });
    const storedAtMs = Math.floor(clock.atMs / 1000) * 1000;
    const backend = await test.backend(BLOCK_BYTES);
    await backend.store(batchOf(keysFrom(1, 1), BLOCK_BYTES));
    clock.atMs += 5 * HOUR_MS;
    await test.reopen();
    const again = await test.backend(BLOCK_BYTES);
    for await (const page of again.scan()) expect(page).toMatchObject([{ storedAtMs }]);
  });

  it("does not bring back what was removed, however often blocks were moved and stored again", {
    timeout: 60_000,
  }, async () => {
    const test = await opened();
    let backend = await test.backend(BLOCK_BYTES);
    const secret = keysFrom(7, 3);
    for (let round = 0; round < 40; round++) {
      await backend.store(batchOf(secret, BLOCK_BYTES));
      if (round % 3 === 0) {
        await load(backend, secret); // so that it is copied when its segment goes
        for (let i = 0; i < round * 7; i += 7) await backend.store(batchOf(keysFrom(1000 * round + i, 7), BLOCK_BYTES));
      }
      await backend.remove(secret);
      for (let i = 0; i < 3; i++) await backend.store(batchOf(keysFrom(1e6 + 1000 * round + i * 9, 9), BLOCK_BYTES));
      await test.reopen();
      backend = await test.backend(BLOCK_BYTES);
      expect([...(await backend.lookup(secret))]).toEqual(Array(3).fill(LookupState.MISS));
      expect(count(await load(backend, secret), Outcome.MISS)).toBe(3);
    }
    expect(test.drive.counters().segmentsFree).toBeGreaterThanOrEqual(0);
  });

  it("may be larger or smaller than before; smaller, it keeps what lies in what is left", async () => {
    const test = await opened();
    await (await test.backend(BLOCK_BYTES)).store(batchOf(keysFrom(0, 20), BLOCK_BYTES));
    await test.reopen({ capacityBytes: HEADER_BYTES + 8 * MIB });
    expect(test.drive.probe.segments).toBe(16);
    expect(await test.fileBytes()).toBe(HEADER_BYTES + 8 * MIB);
    let backend = await test.backend(BLOCK_BYTES);
    for (let at = 0; at < 400; at += 20) await backend.store(batchOf(keysFrom(1000 + at, 20), BLOCK_BYTES));
    expect(count(await load(backend, keysFrom(0, 20)), Outcome.LOADED)).toBe(20);
    await test.reopen({ capacityBytes: HEADER_BYTES + 2 * MIB });
    expect(await test.fileBytes()).toBe(HEADER_BYTES + 2 * MIB);
    backend = await test.backend(BLOCK_BYTES);
    const { blocks } = await backend.usage();
    expect(blocks).toBeGreaterThan(50);
    expect(
      count(await load(backend, keysFrom(1000, 400)), Outcome.LOADED) +
        count(await load(backend, keysFrom(0, 20)), Outcome.LOADED),
    ).toBe(blocks);
    expect(count((await backend.store(batchOf(keysFrom(5000, 20), BLOCK_BYTES))).outcomes, Outcome.STORED)).toBe(20);
  });

  it("keeps its segmentBytes where none are given, and refuses others", async () => {
    const folder = await newFolder();
    const path = join(folder, "drive");
    await (await openNvmeDrive(smallDrive(path))).close();
    const drive = await openNvmeDrive({ path, capacityBytes: HEADER_BYTES + 32 * MIB });
    expect(drive.probe.segmentBytes).toBe(MIB / 2);
    await drive.close();
    const refused = await refusal({ path, capacityBytes: HEADER_BYTES + 32 * MIB, segmentBytes: MIB });
    expect(refused.code).toBe("CONFIG_INVALID");
    expect(refused.message).toContain("524288");
  });
});

describe("a drive that cannot be opened", () => {
  it("because another server has it says so, and which path, and what helps", async () => {
    const test = await opened();
    const refused = await refusal(test.config);
    expect(refused.code).toBe("BUSY");
    expect(refused.message).toContain(test.config.path);
    expect(refused.message).toContain("a path of its own");
  });

  it("because its path is a file, or holds something else, says so and leaves it alone", async () => {
    const folder = await newFolder();
    const file = join(folder, "file");
    await writeFile(file, "x");
    expect((await refusal({ ...smallDrive(file) })).message).toContain(file);
    await mkdir(join(folder, "other"));
    await writeFile(join(folder, "other", "segments.kvs"), "not ours".repeat(1000));
    const refused = await refusal(smallDrive(join(folder, "other")));
    expect(refused.code).toBe("CONFIG_INVALID");
    expect((await stat(join(folder, "other", "segments.kvs"))).size).toBe(8000);
  });

  it.skipIf(isRoot)("because nobody may write there says so", async () => {
    const folder = await newFolder();
    await chmod(folder, 0o500);
    const refused = await refusal(smallDrive(join(folder, "drive")));
    expect(refused.code).toBe("PERMISSION");
    expect(refused.message).toContain("check owner and mode");
  });

  it.runIf(isRoot)(
    "because there is no room for it names capacityBytes and what is free, and takes nothing",
    async () => {
      const folder = await newFolder();
      execFileSync("mount", ["-t", "tmpfs", "-o", `size=${8 * MIB}`, "tmpfs", folder]);
      ends.push(async () => execFileSync("umount", ["-l", folder]));
      const path = join(folder, "drive");
      const refused = await refusal({ path, capacityBytes: HEADER_BYTES + 16 * MIB, segmentBytes: MIB });
      expect(refused.code).toBe("NO_SPACE");
      expect(refused.message).toMatch(/capacityBytes of 17825792 .* and 8\d{6} are free/);
      const drive = await openNvmeDrive({ path, capacityBytes: HEADER_BYTES + 6 * MIB, segmentBytes: MIB });
      const backend = new NvmeBackend({ drive }); // on tmpfs it works all the same
      await backend.open({ namespace: namespaceOf(), keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES });
      for (let at = 0; at < 800; at += 16) {
        const { outcomes } = await backend.store(batchOf(keysFrom(at, 16), BLOCK_BYTES));
        expect(count(outcomes, Outcome.STORED)).toBe(16);
      }
      expect(count(await load(backend, keysFrom(784, 16)), Outcome.LOADED)).toBe(16);
      await backend.close();
      await drive.close();
    },
  );

  it("makes its files for the server's user alone", async () => {
    const test = await opened();
    expect((await stat(test.file)).mode & 0o777).toBe(0o600);
    expect((await stat(test.config.path)).mode & 0o777).toBe(0o700);
  });
});

/** A block device over a file; undefined where this process may not make one. */
function loopDevice(file: string): string | undefined {
  try {
    return execFileSync("losetup", ["-f", "--show", file], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    }).trim();
  } catch {
    return undefined;
  }
}

describe("whose the blocks are", () => {
  it("is known from the drive alone, however often its segments were given up, and forgotten after the last block", async () => {
    const test = await opened();
    const [quiet, busy] = [namespaceOf(), namespaceOf({ model: "busy" })];
    /** After a restart, without the files beside the segments. */
    const known = async (): Promise<string[]> => {
      await test.close();
      await rm(join(test.config.path, "namespaces"), { recursive: true });
      await test.reopen();
      return (await test.drive.storedNamespaces()).map(({ namespace }) => namespace.digestHex).sort();
    };
    await (await test.backend(BLOCK_BYTES, { namespace: quiet })).store(batchOf(keysFrom(0, 4), BLOCK_BYTES));
    expect(await known()).toEqual([quiet.digestHex]);

    let next = 100;
    const store = async (namespace: Namespace, segments: number): Promise<void> => {
      const backend = await test.backend(BLOCK_BYTES, { namespace });
      while (test.drive.counters().segmentsEvicted < segments) {
        await backend.store(batchOf(keysFrom(next, 16), BLOCK_BYTES));
        next += 16;
      }
    };
    await store(busy, 1);
    await store(quiet, 20);
    await test.backend(BLOCK_BYTES, { namespace: busy });
    expect(await known()).toEqual([quiet.digestHex, busy.digestHex].sort());
    await store(quiet, 20);
    expect(await known()).toEqual([quiet.digestHex]);
  });
});

describe("a block device", () => {
  it("is a drive like a folder, and refuses to be one where it holds something else", async (context) => {
    const folder = await newFolder();
    const file = join(folder, "device");
    await writeFile(file, "");
    await truncate(file, 8 * MIB);
    const path = loopDevice(file);
    if (path === undefined) return context.skip("no block device can be made here");
    ends.push(async () => execFileSync("losetup", ["-d", path]));
    const config = { path, capacityBytes: HEADER_BYTES + 6 * MIB, segmentBytes: MIB };
    for (const before of [0, 20]) {
      const drive = await openNvmeDrive(config);
      const backend = new NvmeBackend({ drive });
      await backend.open({ namespace: namespaceOf(), keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES });
      expect(count(await load(backend, keysFrom(0, 20)), Outcome.LOADED)).toBe(before);
      await backend.store(batchOf(keysFrom(0, 20), BLOCK_BYTES));
      await backend.close();
      expect((await drive.storedNamespaces()).map(({ namespace }) => namespace.digestHex)).toEqual([
        namespaceOf().digestHex,
      ]);
      await drive.close();
    }
    await writeFile(file, Buffer.alloc(8 * MIB, "something else"));
    expect((await refusal(config)).code).toBe("CONFIG_INVALID");
  });
});

describe("the wear budget", () => {
  it("drops stores for a day when it is used up, through restarts, and loads go on", async () => {
    const clock = new TestClock();
    const dailyWriteBytesMax = 3 * MIB;
    const test = await opened({ dailyWriteBytesMax }, { clock });
    let backend = await test.backend(BLOCK_BYTES);
    const store = async (first: number): Promise<number> => {
      const { outcomes } = await backend.store(batchOf(keysFrom(first, 16), BLOCK_BYTES));
      expect(count(outcomes, Outcome.STORED) + count(outcomes, Outcome.DROPPED)).toBe(16);
      return count(outcomes, Outcome.STORED);
    };
    let stored = 0;
    for (let at = 0; at < 320; at += 16) stored += await store(at);
    expect(stored * BLOCK_BYTES).toBeGreaterThan(2 * MIB);
    expect(stored * BLOCK_BYTES).toBeLessThan(dailyWriteBytesMax);
    expect(test.drive.counters().bytesWrittenLast24Hours).toBeLessThanOrEqual(dailyWriteBytesMax + 16 * 4096);
    expect(test.drive.counters().blocksDroppedByWearBudget).toBe(320 - stored);
    const before = test.drive.counters().bytesWrittenLast24Hours;

    clock.atMs += 3 * HOUR_MS;
    await test.reopen();
    backend = await test.backend(BLOCK_BYTES);
    expect(count(await load(backend, keysFrom(0, 320)), Outcome.LOADED)).toBe(stored);
    expect(await store(1000)).toBe(0);
    const after = test.drive.counters();
    expect(after.bytesWrittenLast24Hours).toBeGreaterThanOrEqual(before);
    expect(after.bytesWrittenLast24Hours).toBeLessThan(before + 16 * 4096);

    clock.atMs += 22 * HOUR_MS;
    expect(test.drive.counters().bytesWrittenLast24Hours).toBeLessThan(MIB);
    expect(await store(2000)).toBe(16);
    expect(test.warnings.filter((each) => each.includes("budget is used up"))).toHaveLength(2);
    test.warnings.length = 0;
    expect(test.drive.counters().bytesWrittenEver).toBeGreaterThan(before);
  });
});

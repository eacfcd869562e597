import { cpSync } from "node:fs";
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  crc32c,
  keyHex,
  PersistentIndex,
  type PersistentIndexOptions,
  type PrefixIndex,
  packKeys,
} from "../../src/index.js";
import { KEYS, keyOf, type Operation, operation, Pair } from "./operations.js";

let scratch: string;
let folders = 0;

beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "kvferry-index-"));
});
afterAll(() => rm(scratch, { recursive: true, force: true }));

function newFolder(): string {
  return join(scratch, String(folders++));
}

function open(folder: string, more: Partial<PersistentIndexOptions> = {}): Promise<PersistentIndex> {
  return PersistentIndex.open({ folder, keyBytes: 36, identity: Uint8Array.of(1, 2, 3), flushIntervalMs: 0, ...more });
}

/** What a process leaves behind that is killed now: all that it has handed to the system. */
async function killed(folder: string): Promise<string> {
  const copy = newFolder();
  for (;;) {
    await mkdir(copy);
    const names = await readdir(folder);
    const copied = await Promise.allSettled(names.map((name) => copyFile(join(folder, name), join(copy, name))));
    // of one moment only if nothing came or went meanwhile
    const isWhole = copied.every(({ status }) => status === "fulfilled");
    if (isWhole && (await readdir(folder)).join() === names.join()) return copy;
    await rm(copy, { recursive: true });
  }
}

/** All facts of all blocks, comparable. */
function contents(index: PrefixIndex): string {
  const lines = Array.from(index.rows(), (row) => {
    const parent = index.parent(row);
    const facts = [index.tiers(row), index.bytes(row), index.uses(row), index.lastUseMs(row), index.children(row)];
    return `${keyHex(index.key(row))} ${facts} ${parent === -1 ? "" : keyHex(index.key(parent))} ${index.isOrphan(row)}`;
  });
  return lines.sort().join("\n");
}

/** The same for many blocks: a number that depends on all of it. */
function fingerprint(index: PrefixIndex): number {
  const line = new Uint8Array(2 * index.keyBytes + 4 * 8);
  const facts = new Float64Array(line.buffer, 2 * index.keyBytes, 4);
  let sum = 0;
  for (const row of index.rows()) {
    const parent = index.parent(row);
    line.fill(0);
    index.copyKey(row, line, 0);
    if (parent !== -1) index.copyKey(parent, line, index.keyBytes);
    facts.set([
      index.tiers(row),
      index.uses(row),
      index.lastUseMs(row),
      index.children(row) * 2 + Number(index.isOrphan(row)),
    ]);
    sum += crc32c(line);
  }
  return sum;
}

async function contentsOf(folder: string): Promise<string> {
  const opened = await open(folder);
  const found = contents(opened.index);
  await opened.close();
  return found;
}

function insert(index: PrefixIndex, first: number, count: number, tier: number = 1): void {
  const keys = packKeys(Array.from({ length: count }, (_, i) => keyOf(first + i, 36, 0)));
  index.insert(keys, { tier, bytes: 4096, nowMs: 1_800_000_000_000 + first }, new Int32Array(count));
}

const step = fc.oneof(
  { weight: 12, arbitrary: operation },
  { weight: 2, arbitrary: fc.constant({ what: "flush" as const }) },
  { weight: 1, arbitrary: fc.constant({ what: "snapshot" as const }) },
  { weight: 1, arbitrary: fc.constant({ what: "reopen" as const }) },
  { weight: 1, arbitrary: fc.constant({ what: "kill" as const }) },
);

describe("an index on disk", () => {
  it("is after any restart what it was when it was last written", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 80, size: "max" }), async (steps) => {
        let folder = newFolder();
        let opened = await open(folder);
        const pair = new Pair(opened.index);
        const snapshots: Promise<void>[] = [];
        for (const each of steps) {
          if (each.what === "flush") await opened.flush();
          else if (each.what === "snapshot")
            snapshots.push(opened.snapshot()); // goes on beside what follows
          else if (each.what === "reopen" || each.what === "kill") {
            await (each.what === "kill" ? opened.flush() : opened.close());
            const next = await killed(folder); // perhaps in the middle of a snapshot
            await Promise.all(snapshots.splice(0));
            await opened.close();
            folder = next;
            opened = await open(folder);
            expect(opened.recovery).toMatchObject({ damaged: false, cutBytes: 0 });
            pair.index = opened.index;
            pair.check();
          } else pair.apply(each as Operation);
        }
        await Promise.all(snapshots);
        await opened.close();
        expect(await contentsOf(folder)).toBe(contents(opened.index));
        await rm(folder, { recursive: true, force: true });
      }),
      { numRuns: process.env.KVFERRY_LONG ? 2000 : 60 },
    );
  }, 600_000);

  it("comes back as it was at some flush, wherever the log is torn or a bit of it has flipped", async () => {
    const folder = newFolder();
    const opened = await open(folder);
    const states = [contents(opened.index)];
    const ends = [0];
    const changeAndFlush = async (change: () => void): Promise<void> => {
      change();
      await opened.flush();
      states.push(contents(opened.index));
      ends.push(opened.status().logBytes);
    };
    const { index } = opened;
    await changeAndFlush(() => insert(index, 0, 3));
    await changeAndFlush(() => index.touch(Int32Array.of(0, 1), 1_800_000_001_000));
    await changeAndFlush(() => index.delete(1));
    await changeAndFlush(() => insert(index, 10, 2, 4));
    await opened.close();
    const [name] = await readdir(folder);
    const log = await readFile(join(folder, name as string));
    const changed = newFolder();
    await mkdir(changed);
    let rounds = 0;
    const reopened = async (bytes: Uint8Array): Promise<{ at: number; cutBytes: number; unusableFiles: number }> => {
      for (const old of await readdir(changed)) await rm(join(changed, old));
      await writeFile(join(changed, name as string), bytes);
      const again = await open(changed);
      const at = states.indexOf(contents(again.index));
      insert(again.index, 30, 2);
      await again.close();
      if (rounds++ % 8 === 0) expect(await contentsOf(changed)).toBe(contents(again.index)); // it goes on from there
      return { at, ...again.recovery };
    };
    let before = 0;
    for (let length = 0; length <= log.length; length++) {
      const { at, cutBytes, unusableFiles } = await reopened(log.subarray(0, length));
      expect(at).toBeGreaterThanOrEqual(before);
      before = at;
      if (at < states.length - 1 && unusableFiles === 0) expect(cutBytes).toBeLessThanOrEqual(length);
    }
    expect(before).toBe(states.length - 1);
    const holed = Uint8Array.from([...log.subarray(0, ends[2]), ...log.subarray(ends[3])]);
    expect((await reopened(holed)).at).toBe(2); // what follows a frame that is missing is not applied
    for (let bit = 0; bit < log.length * 8; bit += 13) {
      const flipped = Uint8Array.from(log);
      flipped[bit >> 3] = (flipped[bit >> 3] as number) ^ (1 << (bit & 7));
      const { at, cutBytes, unusableFiles } = await reopened(flipped);
      expect(at).toBeGreaterThanOrEqual(0);
      expect(at).toBeLessThan(states.length - 1);
      expect(cutBytes + unusableFiles).toBeGreaterThan(0);
    }
  }, 120_000);

  it("says so when a snapshot is damaged, and never makes facts up", async () => {
    const folder = newFolder();
    const opened = await open(folder);
    insert(opened.index, 0, 20);
    await opened.snapshot();
    insert(opened.index, 20, 5);
    await opened.close();
    const snapshot = (await readdir(folder)).find((name) => name.endsWith(".snapshot")) as string;
    const whole = await readFile(join(folder, snapshot));
    for (let byte = 0; byte < whole.length; byte += 23) {
      const copy = await killed(folder);
      const flipped = Uint8Array.from(whole);
      flipped[byte] = (flipped[byte] as number) ^ 0x10;
      await writeFile(join(copy, snapshot), flipped);
      const again = await open(copy);
      expect(again.index.size).toBe(0);
      expect(again.recovery.unusableFiles).toBe(2);
      insert(again.index, 0, 3);
      await again.close();
      expect(await contentsOf(copy)).toBe(contents(again.index));
      await rm(copy, { recursive: true });
    }
  }, 60_000);

  it("keeps the blocks and forgets their links when the log ends before its snapshot", async () => {
    const folder = newFolder();
    const opened = await open(folder);
    insert(opened.index, 0, 20_000);
    const writing = opened.snapshot();
    insert(opened.index, 20_000, 10); // while rows are being written
    await writing;
    await opened.close();
    const log = (await readdir(folder)).find((name) => name.endsWith(".log")) as string;
    await truncate(join(folder, log), 300);
    const again = await open(folder);
    expect(again.recovery.damaged).toBe(true);
    expect(again.index.size).toBeGreaterThanOrEqual(20_000);
    for (const row of again.index.rows()) {
      expect(again.index.parent(row)).toBe(-1);
      expect(again.index.find(again.index.key(row))).toBe(row);
    }
    await again.close();
    const third = await open(folder);
    expect(third.recovery.damaged).toBe(false);
    expect(contents(third.index)).toBe(contents(again.index));
    await third.close();
  });

  it("survives a crash at any step of a snapshot", async () => {
    const folder = newFolder();
    const crashes: { folder: string; at: number }[] = [];
    const states: number[] = [];
    let isArmed = false;
    const crash = (): void => {
      if (!isArmed || crashes.length === 30) return;
      const copy = newFolder();
      try {
        cpSync(folder, copy, { recursive: true });
        crashes.push({ folder: copy, at: states.length - 1 });
      } catch {
        // a file went or got another name in the middle: not of one moment
      }
    };
    // each frame is given a checksum before it is written: as many moments between all that is done to the files
    const checksum = (bytes: Uint8Array): number => {
      crash();
      return crc32c(bytes);
    };
    const opened = await open(folder, { checksum });
    insert(opened.index, 0, 30_000);
    states.push(fingerprint(opened.index));
    await opened.flush();
    isArmed = true;
    let done = false;
    const writing = opened.snapshot().then(() => {
      done = true;
    });
    for (let i = 0; !done; i++) {
      insert(opened.index, 50_000 + i, 1);
      opened.index.touch(Int32Array.of(i, 25_000 - i), 1_900_000_000_000 + i * 1000);
      opened.index.delete(29_999 - i); // a leaf, whose row the next block takes
      opened.index.delete(20_000 - 2 * i); // leaves an orphan
      states.push(fingerprint(opened.index));
      await opened.flush();
      crash();
    }
    await writing;
    crash();
    await opened.close();
    expect(crashes.length).toBeGreaterThan(12);
    for (const { folder: left, at } of crashes) {
      const again = await open(left);
      expect(again.recovery.damaged).toBe(false);
      expect(again.recovery.unusableFiles).toBeLessThanOrEqual(1); // a log that had no head yet
      const found = fingerprint(again.index);
      expect([at - 1, at].some((each) => states[each] === found)).toBe(true);
      await again.close();
      await rm(left, { recursive: true });
    }
    expect((await readdir(folder)).sort()).toEqual(["index-0000000002.log", "index-0000000002.snapshot"]);
  }, 120_000);

  it("does not take the beginning of a log for all of it when later ones are there", async () => {
    const folder = newFolder();
    const opened = await open(folder);
    insert(opened.index, 0, 5);
    await opened.flush();
    const states = [contents(opened.index)];
    const first = await readFile(join(folder, "index-0000000001.log"));
    insert(opened.index, 5, 5);
    await opened.flush();
    const writing = opened.snapshot();
    insert(opened.index, 10, 5);
    await opened.flush();
    const left = await killed(folder);
    await writing;
    await opened.close();
    // the crash came before the snapshot had its name, and the end of the first log is lost
    for (const name of await readdir(left)) if (name.includes("snapshot")) await rm(join(left, name));
    await writeFile(join(left, "index-0000000001.log"), first);
    const again = await open(left);
    expect(states).toContain(contents(again.index));
    expect(again.recovery.unusableFiles).toBe(1);
    await again.close();
    expect(await contentsOf(left)).toBe(states[0]);
  });

  it("replaces a long log by a snapshot of its own accord", async () => {
    const folder = newFolder();
    const opened = await open(folder, { flushIntervalMs: 5, logBytesMax: 100_000 });
    for (let round = 0; opened.status().snapshots < 2 && round < 2000; round++) {
      insert(opened.index, (round % 100) * 100, 100, 1 << (round % 8));
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    const { snapshots, logBytes, error } = opened.status();
    expect(snapshots).toBeGreaterThan(0);
    expect(logBytes).toBeLessThan(4 * 1_000_000);
    expect(error).toBeUndefined();
    await opened.close();
    expect(await contentsOf(folder)).toBe(contents(opened.index));
    for (const name of await readdir(folder)) expect((await stat(join(folder, name))).mode & 0o777).toBe(0o600);
  }, 60_000);

  it("goes on in memory when the disk fails, and is whole on disk after the next snapshot", async () => {
    const folder = newFolder();
    const opened = await open(folder, { logBytesMax: 1000 });
    insert(opened.index, 0, 10);
    await opened.flush();
    const before = contents(opened.index);
    for (let round = 0; round < 100; round++) {
      insert(opened.index, round * 20, 20);
      await opened.flush();
    }
    expect(opened.status().error?.code).toBe("NO_SPACE");
    expect(opened.index.size).toBe(2000);
    await expect(opened.flush()).resolves.toBeUndefined();
    const left = await open(await killed(folder));
    expect(left.index.size).toBeGreaterThanOrEqual(before.split("\n").length);
    await left.close();
    await opened.snapshot();
    expect(opened.status().error).toBeUndefined();
    insert(opened.index, 5000, 7);
    await opened.close();
    expect(await contentsOf(folder)).toBe(contents(opened.index));
  });

  it("is not written by a snapshot that fails, nor harmed", async () => {
    const folder = newFolder();
    const opened = await open(folder);
    insert(opened.index, 0, 10);
    await opened.flush();
    await mkdir(join(folder, "index-0000000002.snapshot.tmp")); // in its way
    await expect(opened.snapshot()).rejects.toMatchObject({ name: "KvferryError" });
    insert(opened.index, 10, 10);
    await opened.flush();
    await rm(join(folder, "index-0000000002.snapshot.tmp"), { recursive: true });
    expect(await contentsOf(await killed(folder))).toBe(contents(opened.index)); // both logs, one after the other
    await opened.snapshot();
    await opened.close();
    expect((await readdir(folder)).length).toBe(2);
    expect(await contentsOf(folder)).toBe(contents(opened.index));
  });

  it("takes no other namespace's facts, and uses the checksum that it is given", async () => {
    const folder = newFolder();
    let calls = 0;
    const checksum = (bytes: Uint8Array): number => {
      calls++;
      return crc32c(bytes);
    };
    const opened = await open(folder, { checksum });
    insert(opened.index, 0, KEYS);
    await opened.close();
    expect(calls).toBeGreaterThan(2);
    await expect(open(folder, { identity: Uint8Array.of(9) })).rejects.toMatchObject({ code: "NAMESPACE_MISMATCH" });
    await expect(open(folder, { keyBytes: 20 })).rejects.toMatchObject({ code: "NAMESPACE_MISMATCH" });
    expect(await contentsOf(folder)).toBe(contents(opened.index));
    expect(() => opened.snapshot()).toThrow(expect.objectContaining({ code: "CLOSED" }));
  });
});

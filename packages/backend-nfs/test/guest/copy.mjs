// `kvferry copy` to NFS and from NFS, killed in the middle and run again: node copy.mjs v3|v4. With KVFERRY_LONG it copies 10 GiB, which need a guest with a disk.
import { strict as assert } from "node:assert";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { basename, join } from "node:path";
import { text } from "node:stream/consumers";
import { before, describe, it } from "node:test";
import { NfsBackend } from "@kvferry/backend-nfs";
import { PosixBackend } from "@kvferry/backend-posix";
import { createMemoryRegion, keyAt, Outcome } from "@kvferry/core";
import { count, counted, KEY_BYTES, keysOf, namespace, sleep, tell, twoRoots } from "./blocks.mjs";

const version = process.argv[2];
const PROGRAM = "apps/connector-server/bin/kvferry.js";
const LONG = Boolean(process.env.KVFERRY_LONG);
const BLOCK_BYTES = LONG ? 2 ** 20 : 2 ** 18;
const FOOTER_BYTES = 4096;
const BLOCKS = (LONG ? 10 * 2 ** 30 : 64 * 2 ** 20) / BLOCK_BYTES;
const BATCH = 32;
/** Of the run that is killed: slow enough to be met in its middle on a busy machine. The long one is that by its size. */
const RATE = LONG ? [] : ["--rate", "4MiB"];
const NOTHING_LOST = { corruptBlocks: 0, missedBlocks: 0, droppedBlocks: 0, failedBlocks: 0 };

/** Each block's bytes follow from its key. */
const payloadOf = (key) => Buffer.alloc(BLOCK_BYTES, key);

function batchOf(first) {
  const keys = keysOf(first, Math.min(BATCH, BLOCKS - first));
  const slots = Uint32Array.from({ length: keys.count }, (_, i) => i);
  return { keys, region: createMemoryRegion(keys.count, BLOCK_BYTES), slots };
}

const rowOf = ({ region }, i) => region.bytes.subarray(i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES);

async function withOpen(backend, body) {
  await backend.open({ namespace, keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES });
  try {
    await body();
  } finally {
    await backend.close();
  }
}

async function storeAll(backend) {
  await withOpen(backend, async () => {
    for (let first = 0; first < BLOCKS; first += BATCH) {
      const batch = batchOf(first);
      for (let i = 0; i < batch.keys.count; i++) rowOf(batch, i).set(payloadOf(keyAt(batch.keys, i)));
      assert.equal(count((await backend.store(batch)).outcomes, Outcome.STORED), batch.keys.count);
    }
  });
}

/** Loads, which verifies, and compares every block. */
async function assertAllRight(backend) {
  await withOpen(backend, async () => {
    for (let first = 0; first < BLOCKS; first += BATCH) {
      const batch = batchOf(first);
      assert.equal(count((await backend.load(batch)).outcomes, Outcome.LOADED), batch.keys.count);
      for (let i = 0; i < batch.keys.count; i++) {
        assert.ok(payloadOf(keyAt(batch.keys, i)).equals(rowOf(batch, i)), `block ${first + i} has other bytes`);
      }
    }
  });
}

const blocksFolder = (root) => join(root, namespace.digestHex, "blocks");

/** Paths of the blocks below a root, by name. */
function filesOf(root) {
  const names = readdirSync(blocksFolder(root), { recursive: true }).filter((name) => name.endsWith(".kvb"));
  return new Map(names.map((name) => [basename(name), join(blocksFolder(root), name)]));
}

function countFiles(root) {
  try {
    return filesOf(root).size;
  } catch (error) {
    if (error.code === "ENOENT") return 0;
    throw error;
  }
}

/** Makes these blocks such that whoever reads one finds it damaged. */
async function spoil(root, names) {
  const files = filesOf(root);
  for (const name of names) {
    const file = await open(files.get(name), "r+");
    const byte = Buffer.alloc(1);
    await file.read(byte, 0, 1, 100);
    byte[0] ^= 1;
    await file.write(byte, 0, 1, 100);
    await file.close();
  }
}

function startCopy(from, to, flags) {
  const child = spawn(process.execPath, [PROGRAM, "copy", from, to, "--json", ...flags], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  return { child, ended: Promise.all([once(child, "exit"), text(child.stdout)]) };
}

/** Bytes of files that a client has had from the server since it was mounted. */
function bytesReadBy(client) {
  const stats = readFileSync("/proc/self/mountstats", "utf8");
  const mount = stats.split(/^(?=device )/m).find((part) => part.includes(` mounted on /run/nfs/${client}${version} `));
  return Number(/^\s*bytes:\s+(?:\d+\s+){4}(\d+)/m.exec(mount)[1]);
}

/**
 * Kills a copy in its middle and runs it again.
 * @param from, to what the command is given
 * @param fromFolder, toFolder the roots of both as they are on a local file system: looking at them asks the NFS client nothing
 * @returns what the second run has counted, the NFS client's requests meanwhile, and the bytes that it has had from the server.
 */
async function copyInTwoRuns({ from, to, fromFolder, toFolder }) {
  const first = startCopy(from, to, RATE);
  while (countFiles(toFolder) < BLOCKS / 8) {
    assert.equal(first.child.exitCode, null, "the copy ended by itself");
    await sleep(20);
  }
  first.child.kill("SIGKILL");
  const [[code, signal]] = await first.ended;
  assert.deepEqual({ code, signal }, { code: null, signal: "SIGKILL" });

  const there = new Map([...filesOf(toFolder)].map(([name, path]) => [name, inodeOf(path)]));
  tell(`${version} copy killed after`, { blocks: there.size, of: BLOCKS });
  assert.ok(there.size < BLOCKS, "killed too late");
  await spoil(fromFolder, there.keys());
  writeFileSync("/proc/sys/vm/drop_caches", "3"); // or the first run's bytes would answer for the server
  const before = bytesReadBy("c1");
  const {
    value: [ended, output],
    sent,
    ms,
  } = await counted("c1", version, () => startCopy(from, to, []).ended);
  const bytesRead = bytesReadBy("c1") - before;
  const row = JSON.parse(output).namespaces[0];
  tell(`${version} copy run again`, { ms, sent, bytesRead, row });
  assert.deepEqual(ended, [0, null]);

  // a rename that the server was told of just before the kill may have come later
  assert.ok(row.skippedBlocks >= there.size, `${row.skippedBlocks} of ${there.size} blocks were seen`);
  const left = BLOCKS - row.skippedBlocks;
  assert.ok(left > 0);
  const counts = { listedBlocks: BLOCKS, copiedBlocks: left, readBytes: left * BLOCK_BYTES };
  assert.deepEqual(row, { ...row, ...NOTHING_LOST, ...counts });
  assert.equal(countFiles(fromFolder), BLOCKS, "a block was read again, and set aside as damaged");
  const after = filesOf(toFolder);
  assert.equal(after.size, BLOCKS);
  for (const [name, inode] of there) assert.deepEqual(inodeOf(after.get(name)), inode);
  assert.deepEqual(readdirSync(join(toFolder, namespace.digestHex, "tmp")), [], "the killed run left files");
  return { left, sent, bytesRead };
}

/** Tells whether a file was replaced or written. */
function inodeOf(path) {
  const { ino, mtimeNs } = statSync(path, { bigint: true });
  return { ino, mtimeNs };
}

describe(`a copy of ${(BLOCKS * BLOCK_BYTES) / 2 ** 20} MiB over NFS ${version} that was killed`, () => {
  const [one, two] = twoRoots(version);
  const exported = join("/run/export", basename(one));
  const local = mkdtempSync("/run/tmp/copy-from-");
  before(() => storeAll(new PosixBackend({ root: local })));

  it("goes on in NFS, and reads nothing of what is there, neither there nor in FROM", async () => {
    const { sent, bytesRead } = await copyInTwoRuns({
      ...{ from: `posix:${local}`, to: `nfs:${one}` },
      ...{ fromFolder: local, toFolder: exported },
    });
    assert.ok(bytesRead < BLOCK_BYTES, `${bytesRead} bytes in ${sent.READ} requests`); // not one block
    await assertAllRight(new NfsBackend({ root: two })); // on another host
  });

  it("goes on from NFS, and the client reads what was left and no more", async () => {
    rmSync(local, { recursive: true });
    const target = mkdtempSync("/run/tmp/copy-to-");
    const { left, bytesRead } = await copyInTwoRuns({
      ...{ from: `nfs:${one}`, to: `posix:${target}` },
      ...{ fromFolder: exported, toFolder: target },
    });
    const wanted = left * (BLOCK_BYTES + FOOTER_BYTES);
    assert.ok(bytesRead >= wanted && bytesRead < wanted + BLOCK_BYTES, `${bytesRead} bytes for ${wanted}`);
    await assertAllRight(new PosixBackend({ root: target }));
  });
});

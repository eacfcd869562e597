// 10 GiB to S3 and back, killed in the middle each way: what was there is not read again. With KVFERRY_LONG=1; it takes 20 GiB of disk.
import { readdirSync, rmSync } from "node:fs";
import { open } from "node:fs/promises";
import { basename, join } from "node:path";
import { PosixBackend } from "@kvferry/backend-posix";
import { S3Backend } from "@kvferry/backend-s3";
import {
  countOutcome,
  createMemoryRegion,
  type KeyBatch,
  keyAt,
  type OffloadBackend,
  Outcome,
  selectKeys,
} from "@kvferry/core";
import { describe, expect, it } from "vitest";
import { s3ServerBinary } from "../../../scripts/lib/s3-servers.mjs";
import { run, start } from "./child-server.js";
import { KEY_BYTES, randomKeys, range, scratch } from "./helpers.js";
import { NAMESPACE, s3Storage, startVersitygw } from "./storages.js";

const LONG = process.env.KVFERRY_LONG === "1" && s3ServerBinary("versitygw") !== undefined;
const BLOCK_BYTES = 2 ** 20;
const BLOCKS = 10 * 1024;
const BATCH = 32;
const TIMEOUT_MS = 3_600_000;
const NONE = { corruptBlocks: 0, missedBlocks: 0, droppedBlocks: 0, failedBlocks: 0 };

describe.skipIf(!LONG)("10 GiB, by a copy that is killed with -9", { timeout: TIMEOUT_MS }, () => {
  it("to S3 and from S3, go on and read nothing of what is there again", async () => {
    const server = await startVersitygw();
    try {
      const keys = randomKeys(BLOCKS);
      const s3 = s3Storage(server);
      const [local, back] = [join(scratch(), "local"), join(scratch(), "back")];
      const objects = join(server.data, "objects", s3.argument.split(/[:/]/)[1] as string);
      await each(keys, new PosixBackend({ root: local }), "store");
      const [posix, posixBack] = [`posix:${local}`, `posix:${back}`];
      await copyInTwoRuns({ from: posix, to: s3.argument, fromFolder: local, toFolder: objects, env: s3.env });
      rmSync(local, { recursive: true });
      await each(keys, new S3Backend(settingsOf(s3.argument)), "load");
      await copyInTwoRuns({ from: s3.argument, to: posixBack, fromFolder: objects, toFolder: back, env: s3.env });
      await each(keys, new PosixBackend({ root: back }), "load");
    } finally {
      await server.stop();
    }
  });
});

interface Copy {
  readonly from: string;
  readonly to: string;
  /** Where the files of the blocks are, whatever serves them. */
  readonly fromFolder: string;
  readonly toFolder: string;
  readonly env: NodeJS.ProcessEnv;
}

async function copyInTwoRuns({ from, to, fromFolder, toFolder, env }: Copy): Promise<void> {
  const first = await start(["copy", from, to], env);
  while (filesOf(toFolder).size < BLOCKS / 4) await new Promise((resolve) => setTimeout(resolve, 300));
  first.child.kill("SIGKILL");
  await first.finished;
  const there = [...filesOf(toFolder).keys()];
  expect(there.length).toBeLessThan(BLOCKS);
  await spoil(fromFolder, there); // whoever reads one of them again will see it
  const { code, stdout } = await run(["copy", from, to, "--json"], env);
  const row = JSON.parse(stdout).namespaces[0];
  console.log(
    `# ${from.split(":")[0]} to ${to.split(":")[0]}: killed after ${there.length} of ${BLOCKS} blocks; then`,
    row,
  );
  expect(code).toBe(0);
  expect(row.skippedBlocks).toBeGreaterThanOrEqual(there.length); // what was being put at the kill may have come later
  const left = BLOCKS - row.skippedBlocks;
  expect(left).toBeGreaterThan(0);
  expect(row).toMatchObject({ ...NONE, listedBlocks: BLOCKS, copiedBlocks: left, readBytes: left * BLOCK_BYTES });
}

function filesOf(folder: string): Map<string, string> {
  try {
    const names = readdirSync(folder, { recursive: true, encoding: "utf8" });
    return new Map(
      names
        .filter((name) => /[0-9a-f]{72}(\.kvb)?$/.test(name))
        .map((name) => [basename(name, ".kvb"), join(folder, name)]),
    );
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return new Map();
    throw error;
  }
}

async function spoil(folder: string, names: readonly string[]): Promise<void> {
  const files = filesOf(folder);
  for (const name of names) {
    const file = await open(files.get(name) as string, "r+");
    const byte = Buffer.alloc(1);
    await file.read(byte, 0, 1, 100);
    byte.writeUInt8(byte.readUInt8(0) ^ 1);
    await file.write(byte, 0, 1, 100);
    await file.close();
  }
}

function settingsOf(argument: string): ConstructorParameters<typeof S3Backend>[0] {
  const [place = "", query] = argument.slice("s3:".length).split("?");
  const [bucket = "", prefix = ""] = place.split("/");
  const parameters = new URLSearchParams(query);
  return { bucket, prefix, endpoint: parameters.get("endpoint") ?? "", region: parameters.get("region") ?? "" };
}

/** Stores every block, or loads and compares it. Each block's bytes follow from its key. */
async function each(keys: KeyBatch, backend: OffloadBackend, what: "store" | "load"): Promise<void> {
  await backend.open({ namespace: NAMESPACE, keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES });
  const region = createMemoryRegion(BATCH, BLOCK_BYTES);
  for (let first = 0; first < BLOCKS; first += BATCH) {
    const batch = {
      keys: selectKeys(
        keys,
        range(BATCH).map((i) => first + i),
      ),
      region,
      slots: Uint32Array.from(range(BATCH)),
    };
    const payloads = range(BATCH).map((i) => Buffer.alloc(BLOCK_BYTES, keyAt(batch.keys, i)));
    if (what === "store") region.bytes.set(Buffer.concat(payloads));
    const result = await backend[what](batch);
    expect(countOutcome(result, what === "store" ? Outcome.STORED : Outcome.LOADED)).toBe(BATCH);
    expect(Buffer.compare(region.bytes, Buffer.concat(payloads))).toBe(0);
  }
  await backend.close();
}

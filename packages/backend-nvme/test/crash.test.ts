import { spawn } from "node:child_process";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { keyAt, LookupState, Outcome, packKeys } from "@kvferry/core";
import { describe, expect, it } from "vitest";
import { NvmeBackend } from "../src/index.js";
import { batchOf, count, keysFrom, load, namespaceOf } from "./blocks.js";
import { CRASH_BLOCK_BYTES, CRASH_DRIVE, KEY_BYTES, numberOf } from "./crash-blocks.mjs";

const ROUNDS = process.env.KVFERRY_LONG ? 200 : 12;
const writer = fileURLToPath(new URL("./crash-writer.mjs", import.meta.url));

/** Kills a writer at a random moment; the removals that it had reported. */
async function storeAndKill(path: string, seed: number, ioUring: string): Promise<number[]> {
  const child = spawn(process.execPath, [writer, path, String(seed), ioUring], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let said = "";
  const ended = new Promise<void>((resolve) => child.stdout.on("end", resolve));
  const begun = new Promise<void>((resolve) => {
    child.stdout.on("data", (bytes: Buffer) => {
      said += bytes.toString();
      resolve();
    });
  });
  await Promise.race([begun, ended]);
  await new Promise((resolve) => setTimeout(resolve, 20 + Math.random() * 150));
  child.kill("SIGKILL");
  await ended;
  expect(said).toMatch(/^storing\n/);
  return [...said.matchAll(/^removed (\d+)\n/gm)].map(([, number]) => Number(number));
}

/** Opens the drive and loads all that is in it; how many blocks there are. */
async function checkAll(path: string, removed: ReadonlySet<number>, ioUring: "auto" | "off"): Promise<number> {
  const backend = new NvmeBackend({ path, ...CRASH_DRIVE, ioUring });
  await backend.open({ namespace: namespaceOf(), keyBytes: KEY_BYTES, blockBytes: CRASH_BLOCK_BYTES });
  try {
    let blocks = 0;
    for await (const page of backend.scan({ pageEntriesMax: 64 })) {
      const outcomes = await load(backend, packKeys(page.map(({ key }) => key)));
      expect(count(outcomes, Outcome.LOADED)).toBe(page.length);
      for (const { key } of page) expect(removed.has(numberOf(key)), `block ${numberOf(key)} was removed`).toBe(false);
      blocks += page.length;
    }
    expect((await backend.usage()).blocks).toBe(blocks);
    expect((await stat(join(path, "segments.kvs"))).size).toBeLessThanOrEqual(CRASH_DRIVE.capacityBytes);
    const next = keysFrom(-1000, 4); // it goes on
    await backend.remove(next);
    expect(count((await backend.store(batchOf(next, CRASH_BLOCK_BYTES))).outcomes, Outcome.STORED)).toBe(4);
    expect((await backend.lookup(packKeys([keyAt(next, 0)])))[0]).toBe(LookupState.HIT);
    return blocks;
  } finally {
    await backend.close();
  }
}

describe("a server that is killed at a random moment", () => {
  for (const ioUring of ["auto", "off"] as const) {
    it(`leaves a drive with whole blocks alone, and none that was removed (io_uring: ${ioUring})`, {
      timeout: ROUNDS * 10_000,
    }, async () => {
      const path = await mkdtemp(join(tmpdir(), "kvferry-nvme-"));
      try {
        const removed = new Set<number>();
        let blocks = 0;
        for (let round = 1; round <= ROUNDS; round++) {
          for (const number of await storeAndKill(path, round, ioUring)) removed.add(number);
          blocks = Math.max(blocks, await checkAll(path, removed, ioUring));
        }
        expect(blocks).toBeGreaterThan(200); // it was at capacity
        expect(removed.size).toBeGreaterThan(ROUNDS);
      } finally {
        await rm(path, { recursive: true, force: true });
      }
    });
  }
});

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { createMemoryRegion, createNamespace, Outcome, packKeys } from "@kvferry/core";
import { afterEach, describe, expect, it } from "vitest";
import { PosixBackend } from "../src/index.js";
import { BLOCK_BYTES, fillBlock, KEY_BYTES, namespaceFields, numberOf } from "./crash-blocks.mjs";
import { makeRoot } from "./storage.js";

const ROUNDS = Number(process.env.KVFERRY_CRASH_ROUNDS ?? 12);
const writer = fileURLToPath(new URL("./crash-writer.mjs", import.meta.url));

let cleanup: () => Promise<void> = async () => {};
afterEach(() => cleanup());

/** Kills a writer at a random moment. */
async function storeAndKill(root: string, publish: string, seed: number): Promise<void> {
  const child = spawn(process.execPath, [writer, root, publish, String(seed)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(child.stdout, "data");
  await new Promise((resolve) => setTimeout(resolve, 5 + Math.random() * 60));
  child.kill("SIGKILL");
  await once(child, "exit");
}

/** Opens the folder and loads all that is in it. Returns how many blocks there were. */
async function checkAll(root: string): Promise<number> {
  const backend = new PosixBackend({ root });
  const namespace = createNamespace(namespaceFields);
  await backend.open({ namespace, keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES });
  const region = createMemoryRegion(64, BLOCK_BYTES);
  const expected = new Uint8Array(BLOCK_BYTES);
  let blocks = 0;
  for await (const page of backend.scan({ pageEntriesMax: 64 })) {
    const keys = packKeys(page.map((entry) => entry.key));
    const { outcomes } = await backend.load({ keys, region, slots: Uint32Array.from(page.keys()) });
    for (const [i, entry] of page.entries()) {
      expect(outcomes[i]).toBe(Outcome.LOADED);
      fillBlock(expected, numberOf(entry.key));
      const found = region.bytes.subarray(i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES);
      expect(Buffer.compare(found, expected), `block ${numberOf(entry.key)}`).toBe(0);
      blocks++;
    }
  }
  expect(await readdir(join(root, namespace.digestHex, "tmp"))).toHaveLength(1); // its own
  await backend.close();
  return blocks;
}

describe("a writer that is killed at a random moment", () => {
  for (const publish of ["link", "rename"]) {
    it(`leaves only whole blocks, and nothing else after the next open (${publish})`, {
      timeout: 120_000,
    }, async () => {
      const { root, remove } = await makeRoot();
      cleanup = remove;
      let blocks = 0;
      for (let round = 0; round < ROUNDS; round++) {
        await storeAndKill(root, publish, round);
        const now = await checkAll(root);
        expect(now).toBeGreaterThanOrEqual(blocks);
        blocks = now;
      }
      expect(blocks).toBeGreaterThan(0);
      expect(existsSync(join(root, createNamespace(namespaceFields).digestHex, "quarantine"))).toBe(false);
    });
  }
});

// How long a shared root takes, with a capacity and after the server that led was killed, until a new server answers its first lookup, and until it has
// counted everything: node bench/recovery.mjs [FOLDER] [BLOCKS]. Needs the built package, and room for BLOCKS (default 1,000,000) files of 8 KiB.

import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { PosixBackend } from "@kvferry/backend-posix";
import { createMemoryRegion, createNamespace, Outcome, packedKeys } from "@kvferry/core";
import { KEY_BYTES, makeKeys, namespaceFields } from "../test/crash-blocks.mjs";

const BLOCK_BYTES = 4096;
const FILE_BYTES = 8192;
const BATCH_BLOCKS = 256;
const STREAMS = 4;
const LOOKUP_KEYS = 4096;
const COUNTED_WITHIN_MS = 300_000;
const [parent = tmpdir(), count = "1000000", role = "measure"] = process.argv.slice(2);
const blocks = Number(count);

const context = { namespace: createNamespace(namespaceFields), keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES };

async function opened(root) {
  const backend = new PosixBackend({ root, capacityBytes: Math.ceil(blocks * FILE_BYTES * 1.1) + 2 ** 30 });
  await backend.open(context);
  return backend;
}

/** Fills a root and dies. What finds no room yet is stored again. */
async function fill(root) {
  const backend = await opened(root);
  const region = createMemoryRegion(BATCH_BLOCKS, BLOCK_BYTES);
  const slots = Uint32Array.from({ length: BATCH_BLOCKS }, (_, i) => i);
  let next = 0;
  const stream = async () => {
    while (next < blocks) {
      const keys = packedKeys(makeKeys(next, BATCH_BLOCKS), KEY_BYTES);
      next += BATCH_BLOCKS;
      for (let isThere = false; !isThere; ) {
        const { outcomes } = await backend.store({ keys, region, slots });
        isThere = outcomes.every((outcome) => outcome === Outcome.STORED || outcome === Outcome.PRESENT);
        if (!isThere) await sleep(100);
      }
    }
  };
  await Promise.all(Array.from({ length: STREAMS }, stream));
  process.kill(process.pid, "SIGKILL");
}

async function measure(root) {
  const keys = packedKeys(makeKeys(0, LOOKUP_KEYS), KEY_BYTES);
  const cpuBefore = process.cpuUsage();
  const started = performance.now();
  const backend = await opened(root);
  const states = await backend.lookup(keys);
  const firstLookupMs = Math.round(performance.now() - started);
  const cpu = process.cpuUsage(cpuBefore);
  const region = createMemoryRegion(1, BLOCK_BYTES);
  const one = { keys: packedKeys(makeKeys(-1, 1), KEY_BYTES), region, slots: Uint32Array.of(0) };
  while ((await backend.store(one)).outcomes[0] !== Outcome.STORED) {
    if (performance.now() - started > COUNTED_WITHIN_MS) throw new Error("no room was granted");
    await sleep(10);
  }
  const firstStoreMs = Math.round(performance.now() - started);
  const usage = await backend.usage();
  await backend.close();
  console.log(
    JSON.stringify({
      blocks,
      firstLookupMs,
      cpuMs: Math.round((cpu.user + cpu.system) / 1000),
      hits: states.filter((state) => state === 1).length,
      firstStoreMs,
      usage,
    }),
  );
}

if (role === "fill") {
  await fill(parent);
} else {
  const root = mkdtempSync(join(parent, "kvferry-posix-recovery-"));
  try {
    const self = fileURLToPath(import.meta.url);
    const { signal } = spawnSync(process.execPath, [self, root, count, "fill"], { stdio: "inherit" });
    if (signal !== "SIGKILL") throw new Error("the root could not be filled");
    await measure(root);
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

// How long a killed server's drive takes until it answers its first lookup: node bench/recovery.mjs [FOLDER] [BLOCKS]. Needs the built package,
// and room for BLOCKS (default 1,000,000) of 4 KiB and a fifth more.

import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { NvmeBackend } from "@kvferry/backend-nvme";
import { createMemoryRegion, createNamespace, packedKeys } from "@kvferry/core";
import { KEY_BYTES, makeKeys, namespaceFields } from "../test/crash-blocks.mjs";

const BLOCK_BYTES = 4096;
const BATCH_BLOCKS = 256;
const STREAMS = 4;
const LOOKUP_KEYS = 4096;
/** A drive that has just taken gigabytes in seconds answers reads late for a while, whoever asks. */
const SETTLE_MS = 5000;
const [parent = tmpdir(), count = "1000000", role = "measure"] = process.argv.slice(2);
const blocks = Number(count);

function backendAt(path) {
  return new NvmeBackend({ path, capacityBytes: Math.ceil(blocks * BLOCK_BYTES * 1.1) + 2 ** 29 });
}

const context = { namespace: createNamespace(namespaceFields), keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES };

/** Fills a drive and dies. */
async function fill(path) {
  const backend = backendAt(path);
  await backend.open(context);
  const region = createMemoryRegion(BATCH_BLOCKS, BLOCK_BYTES);
  const slots = Uint32Array.from({ length: BATCH_BLOCKS }, (_, i) => i);
  let next = 0;
  const stream = async () => {
    while (next < blocks) {
      const first = next;
      next += BATCH_BLOCKS;
      await backend.store({ keys: packedKeys(makeKeys(first, BATCH_BLOCKS), KEY_BYTES), region, slots });
    }
  };
  await Promise.all(Array.from({ length: STREAMS }, stream));
  process.kill(process.pid, "SIGKILL");
}

async function measure(path) {
  const keys = packedKeys(makeKeys(0, LOOKUP_KEYS), KEY_BYTES);
  const cpuBefore = process.cpuUsage();
  const started = performance.now();
  const backend = backendAt(path);
  await backend.open(context);
  const states = backend.lookupNow(keys);
  const milliseconds = Math.round(performance.now() - started);
  const cpu = process.cpuUsage(cpuBefore);
  const result = {
    blocks: (await backend.usage()).blocks,
    firstLookupMs: milliseconds,
    cpuMs: Math.round((cpu.user + cpu.system) / 1000),
    hits: states.filter((state) => state === 1).length,
    indexBytesPerBlock: Math.round(backend.drive.counters().indexBytes / blocks),
    engine: backend.drive.probe.engine,
  };
  console.log(JSON.stringify(result));
  await backend.close();
}

if (role === "fill") {
  await fill(parent);
} else {
  const path = mkdtempSync(join(parent, "kvferry-nvme-recovery-"));
  try {
    const self = fileURLToPath(import.meta.url);
    const { signal } = spawnSync(process.execPath, [self, path, count, "fill"], { stdio: "inherit" });
    if (signal !== "SIGKILL") throw new Error("the drive could not be filled");
    await sleep(SETTLE_MS);
    await measure(path);
  } finally {
    rmSync(path, { recursive: true, force: true });
  }
}

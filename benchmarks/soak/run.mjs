#!/usr/bin/env node
// `npm run bench:soak`: mixed load on a full server for an hour; memory, descriptors and hit ratio must stay as they are.
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { DEFAULT_POLICY, POLICIES } from "@kvferry/core";
import { startServer } from "../../scripts/demo/server.mjs";
import { cleanUpAtExit } from "../../scripts/lib/processes.mjs";
import { replay } from "../reuse/replay.mjs";
import { SYNTHETIC, syntheticTrace } from "../reuse/synthetic.mjs";
import { numbered } from "../reuse/traces.mjs";
import { SoakEngine } from "./engine.mjs";

const root = resolve(fileURLToPath(import.meta.url), "../../..");
const results = join(root, "benchmarks/results");
const BLOCK_BYTES = 64 * 1024;
const FILE_BYTES = BLOCK_BYTES + 4096;
const SAMPLE_MS = 5000;
/** Of the run: what comes before fills the tiers and the server's pools. */
const WARM_UP_SHARE = 0.25;
/** How far the server's hit ratio may be from the simulation's. */
const HIT_RATIO_DIFFERENCE_MAX = 0.02;
/** A folder that is being listed, a file that is being written: they come and go. */
const DESCRIPTORS_SLACK = 8;
const GROWTH_SHARE_MAX = 0.1;

const HELP = `Usage: npm run bench:soak -- [options]

  --minutes N     how long (default 60)
  --blocks N      blocks of 64 KiB a second, looked up (default 400)
  --capacity N    blocks of the largest tier (default 12000); a drive has half of it, memory a tenth
  --engines N     at a time (default 3)
  --trace NAME    of ${SYNTHETIC.join(", ")} (default chat-and-scans)
  --policy NAME   of ${Object.keys(POLICIES).join(", ")} (default ${DEFAULT_POLICY})
  --root DIR      where the tiers lie (default: the system's temporary folder)
  --help          this text

A server with memory, a drive's segments and files, all full after the first minutes, answers engines that check every byte. Prints and writes to
benchmarks/results/soak.json: resident memory and descriptors after the first quarter and at the end, and the hit ratio beside that of the
same requests replayed in the simulator. Exit code 1 if a byte was wrong, or one of them was not as it should be.

Example: npm run bench:soak -- --minutes 5
`;

const { values: flags } = parseArgs({
  options: {
    minutes: { type: "string", default: "60" },
    blocks: { type: "string", default: "400" },
    capacity: { type: "string", default: "12000" },
    engines: { type: "string", default: "3" },
    trace: { type: "string", default: "chat-and-scans" },
    policy: { type: "string", default: DEFAULT_POLICY },
    root: { type: "string", default: tmpdir() },
    help: { type: "boolean", default: false },
  },
});
if (flags.help) {
  process.stdout.write(HELP);
  process.exit(0);
}
const minutes = Number(flags.minutes);
const blocksPerSecond = Number(flags.blocks);
const capacityBlocks = Number(flags.capacity);

const scratch = mkdtempSync(join(flags.root, "kvferry-soak-"));
cleanUpAtExit(() => rmSync(scratch, { recursive: true, force: true }));

function configuration() {
  return {
    tiers: [
      { backend: "memory", capacity: Math.ceil(capacityBlocks / 10) * BLOCK_BYTES, policy: flags.policy },
      { backend: "nvme", path: join(scratch, "nvme"), capacity: Math.ceil(capacityBlocks / 2) * BLOCK_BYTES },
      { backend: "posix", root: join(scratch, "posix"), capacity: capacityBlocks * FILE_BYTES, policy: flags.policy },
    ],
  };
}

/** Resident memory that is the server's own: shared memory (the arena, the engines' regions) does not count. */
function sample(pid, startedMs) {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const anonymousBytes = Number(/RssAnon:\s+(\d+)/.exec(status)[1]) * 1024;
  const residentBytes = Number(/VmRSS:\s+(\d+)/.exec(status)[1]) * 1024;
  const descriptors = readdirSync(`/proc/${pid}/fd`).length;
  return { seconds: (performance.now() - startedMs) / 1000, anonymousBytes, residentBytes, descriptors };
}

function total(engines) {
  const sum = {};
  for (const { counts } of engines)
    for (const [name, count] of Object.entries(counts)) sum[name] = (sum[name] ?? 0) + count;
  return sum;
}

/** Each engine takes the next request, in the trace's order and no faster than the pace. */
async function drive(engines, requests, startedMs, endsMs) {
  let next = 0;
  let begun = 0;
  await Promise.all(
    engines.map(async (engine) => {
      while (next < requests.length && performance.now() < endsMs) {
        const { hash_ids: ids } = requests[next++];
        const dueMs = startedMs + (begun / blocksPerSecond) * 1000;
        begun += ids.length;
        await sleep(Math.max(0, dueMs - performance.now()));
        await engine.request(ids);
      }
    }),
  );
  return next;
}

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

/** Between the first and the last fifth of the samples after the warm-up. */
function growth(samples, field) {
  const steady = samples.slice(Math.floor(samples.length * WARM_UP_SHARE));
  const fifth = Math.max(1, Math.floor(steady.length / 5));
  const of = (part) => median(part.map((each) => each[field]));
  const [first, last] = [of(steady.slice(0, fifth)), of(steady.slice(-fifth))];
  return { first, last, share: last / first - 1 };
}

const config = join(scratch, "kvferry.yaml");
writeFileSync(config, JSON.stringify(configuration())); // JSON is YAML
const socket = join(scratch, "s");
const server = await startServer(root, ["--config", config], socket);
const engines = await Promise.all(
  Array.from({ length: Number(flags.engines) }, () => SoakEngine.connect(socket, BLOCK_BYTES)),
);
const requests = syntheticTrace(flags.trace, { blocks: Math.ceil(minutes * 60 * blocksPerSecond) });
console.log(`${minutes} minutes of ${flags.trace}, ${blocksPerSecond} blocks/s, under ${scratch}`);

const startedMs = performance.now();
const samples = [];
const sampler = setInterval(() => {
  samples.push(sample(server.child.pid, startedMs));
  const { seconds, anonymousBytes, descriptors } = samples.at(-1);
  const { blocks = 0, found = 0 } = total(engines);
  if (samples.length % 12 !== 0) return;
  console.log(
    `${Math.round(seconds)} s: ${blocks} blocks, hit ratio ${(found / blocks).toFixed(3)}, ${(anonymousBytes / 2 ** 20).toFixed(0)} MiB, ${descriptors} descriptors`,
  );
}, SAMPLE_MS);
const done = await drive(engines, requests, startedMs, startedMs + minutes * 60_000);
clearInterval(sampler);
const counts = total(engines);
for (const engine of engines) await engine.close();

const simulated = replay(numbered(requests.slice(0, done)), capacityBlocks, POLICIES[flags.policy]).hitRatio;
const hitRatio = counts.found / counts.blocks;
const memory = growth(samples, "anonymousBytes");
const descriptors = growth(samples, "descriptors");
const verdict = {
  bytes: counts.wrong === 0 && counts.corrupt === 0,
  memory: memory.share <= GROWTH_SHARE_MAX,
  descriptors: descriptors.last <= descriptors.first + DESCRIPTORS_SLACK,
  hitRatio: Math.abs(hitRatio - simulated) <= HIT_RATIO_DIFFERENCE_MAX,
};
const report = { options: flags, counts, hitRatio, simulated, memory, descriptors, verdict, samples };
mkdirSync(results, { recursive: true });
writeFileSync(join(results, "soak.json"), `${JSON.stringify(report, null, 1)}\n`);
console.log(JSON.stringify({ counts, hitRatio, simulated, memory, descriptors, verdict }, null, 2));
process.exit(Object.values(verdict).every(Boolean) ? 0 : 1);

#!/usr/bin/env node
// `npm run bench:tier`: vLLM's fs tier and ours, side by side at vLLM's interface. See tier_bench.py for what is measured.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { cpus, loadavg, release, tmpdir, totalmem } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { startServer } from "../../scripts/demo/server.mjs";
import { cleanUpAtExit, start } from "../../scripts/lib/processes.mjs";
import { setupPython } from "../../scripts/setup-python.mjs";
import { barChart } from "./plot.mjs";

const root = resolve(fileURLToPath(import.meta.url), "../../..");
const results = join(root, "benchmarks/results");
const TIERS = ["fs", "kvferry"];

const HELP = `Usage: npm run bench:tier -- [options]

  --root DIR      where both tiers keep their files (default: the system's temporary folder)
  --rounds N      rounds that are reported (default 5)
  --mebibytes N   bytes of a phase (default 256)
  --help          this text

Writes benchmarks/results/tier.json and tier.svg.
`;
const { values: flags } = parseArgs({
  options: {
    root: { type: "string", default: tmpdir() },
    rounds: { type: "string", default: "5" },
    mebibytes: { type: "string", default: "256" },
    help: { type: "boolean", default: false },
  },
});
if (flags.help) {
  process.stdout.write(HELP);
  process.exit(0);
}

const scratch = mkdtempSync(join(tmpdir(), "kvferry-bench-"));
const storage = mkdtempSync(join(flags.root, "kvferry-bench-data-"));
cleanUpAtExit(() => {
  for (const folder of [scratch, storage]) rmSync(folder, { recursive: true, force: true });
});

async function benchmark(options, { python, env }) {
  const script = join(root, "benchmarks/tier/tier_bench.py");
  const child = start(python, [script, JSON.stringify(options)], {
    env: { ...env, PYTHONPATH: join(root, "apps/vllm-plugin/src") },
  });
  let output = "";
  child.child.stdout.setEncoding("utf8").on("data", (data) => {
    output += data;
  });
  if ((await child.ended) !== 0) throw new Error(child.errors());
  return JSON.parse(output);
}

function machine() {
  const [first] = cpus();
  return {
    cpu: first?.model,
    cores: cpus().length,
    memoryBytes: totalmem(),
    kernel: release(),
    node: process.version,
    loadAverage: loadavg(),
  };
}

/** The measures, and how to read one from a round. */
const MEASURES = {
  storeGigabytesPerSecond: (round) => round.store.gigabytesPerSecond,
  loadGigabytesPerSecond: (round) => round.load.gigabytesPerSecond,
  hitMicrosecondsPerRequest: (round) => round.lookupHit.secondsPerRequest * 1e6,
  missMicrosecondsPerRequest: (round) => round.lookupMiss.secondsPerRequest * 1e6,
  hitKeysPerSecond: (round) => round.lookupHit.keysPerSecond,
  hitRetriesPerRequest: (round) => round.lookupHit.retries / round.lookupHit.requests,
  missRetriesPerRequest: (round) => round.lookupMiss.retries / round.lookupMiss.requests,
  millisecondsInCalls: (round) => 1e3 * sum(round, "secondsInCalls"),
  slowestCallMilliseconds: (round) => 1e3 * Math.max(...phases(round).map((phase) => phase.slowestCallSeconds)),
  storeCpuSecondsPerGigabyte: (round) => round.store.cpuSecondsPerGigabyte,
  loadCpuSecondsPerGigabyte: (round) => round.load.cpuSecondsPerGigabyte,
};

function phases({ store, load, lookupHit, lookupMiss }) {
  return [store, load, lookupHit, lookupMiss];
}

function sum(round, field) {
  return phases(round).reduce((total, phase) => total + phase[field], 0);
}

function summaries({ chunkBytes, blocks, rounds }) {
  return TIERS.map((tier) => {
    const own = rounds.filter((round) => round.tier === tier);
    const measures = Object.entries(MEASURES).map(([name, read]) => {
      const values = own.map(read).sort((a, b) => a - b);
      return [name, { median: values[values.length >> 1], min: values[0], max: values.at(-1) }];
    });
    return { chunkBytes, blocks, tier, ...Object.fromEntries(measures) };
  });
}

function chart({ summary, machine: { cpu, cores }, vllm, options: { rounds, bytes } }) {
  const panels = [
    ["Store", "GB/s, more is better", "storeGigabytesPerSecond"],
    ["Load, cold page cache", "GB/s, more is better", "loadGigabytesPerSecond"],
    ["CPU of a load, server included", "s/GB, less is better", "loadCpuSecondsPerGigabyte"],
    ["Lookup of a prompt that is there", "µs until every key is known, less is better", "hitMicrosecondsPerRequest"],
    ["Lookup of a prompt that is not", "µs, less is better", "missMicrosecondsPerRequest"],
    [
      "RETRY answers, prompt that is there",
      "a request; a step with any is lost, less is better",
      "hitRetriesPerRequest",
    ],
  ].map(([title, unit, measure]) => ({ title, unit, groups: groupsOf(summary, measure) }));
  const subtitle = `vLLM ${vllm}, ${cores} cores (${cpu}), ${rounds} rounds of ${bytes >> 20} MiB; median, line: range; kvferry verifies every byte`;
  return barChart("vLLM's fs tier and KvferryTier at vLLM's tier interface", subtitle, panels);
}

function groupsOf(summary, measure) {
  const sizes = [...new Set(summary.map(({ chunkBytes }) => chunkBytes))];
  return sizes.map((size) => ({
    label: size < 1 << 20 ? `${size >> 10} KiB` : `${size >> 20} MiB`,
    bars: summary
      .filter(({ chunkBytes }) => chunkBytes === size)
      .map((each) => ({ tier: each.tier, ...each[measure] })),
  }));
}

function print(summary) {
  const text = (value) => (value >= 100 ? value.toFixed(0) : value.toPrecision(3));
  for (const name of Object.keys(MEASURES)) {
    console.log(`\n${name} (median, min to max)`);
    for (const { chunkBytes, tier, [name]: value } of summary) {
      console.log(
        `  ${`${chunkBytes >> 10} KiB`.padStart(9)}  ${tier.padEnd(8)} ${text(value.median).padStart(9)}   ${text(value.min)} to ${text(value.max)}`,
      );
    }
  }
}

const setup = await setupPython();
const socket = join(scratch, "s");
const server = await startServer(root, join(storage, "kvferry"), socket);
const options = {
  root: storage,
  socket,
  serverPid: server.child.pid,
  rounds: Number(flags.rounds),
  bytes: Number(flags.mebibytes) << 20,
  chunkBytes: [256 << 10, 1 << 20, 4 << 20],
};
console.log(`${options.rounds} rounds of ${flags.mebibytes} MiB under ${storage}`);
const measured = await benchmark(options, setup);
const report = {
  machine: machine(),
  options: { ...options, serverPid: undefined, root: undefined, socket: undefined },
  ...measured,
};
report.summary = report.chunks.flatMap(summaries);
mkdirSync(results, { recursive: true });
writeFileSync(join(results, "tier.json"), `${JSON.stringify(report, null, 1)}\n`);
writeFileSync(join(results, "tier.svg"), chart(report));
print(report.summary);
process.exit(0);

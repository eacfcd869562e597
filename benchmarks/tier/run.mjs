#!/usr/bin/env node
// `npm run bench:tier`: vLLM's fs tier and our tiers, side by side at vLLM's interface. See tier_bench.py for what is measured.
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { startServer } from "../../scripts/demo/server.mjs";
import { cleanUpAtExit, start } from "../../scripts/lib/processes.mjs";
import { setupPython } from "../../scripts/setup-python.mjs";
import { machine } from "../lib/machine.mjs";
import { barChart } from "./plot.mjs";

const root = resolve(fileURLToPath(import.meta.url), "../../..");
const results = join(root, "benchmarks/results");
const MEBIBYTE = 2 ** 20;
/** Blocks that fio keeps under way. */
const FIO_DEPTH = 64;
/** Rounds that are not reported: they fill the bounded tiers, and fio's file. */
const WARM_UP_ROUNDS = 3;

const HELP = `Usage: npm run bench:tier -- [options]

  --root DIR      where both tiers keep their files (default: the system's temporary folder)
  --rounds N      rounds that are reported (default 5)
  --mebibytes N   bytes of a phase (default 256)
  --tiers LIST    of posix, nvme, memory (default: all)
  --chunks LIST   KiB of a block (default 64,256,1024,4096)
  --help          this text

Writes benchmarks/results/tier.json and tier.svg. fio's figures for the same folder, block size and depth stand beside them where fio is
installed.

Example: npm run bench:tier -- --root /mnt/nvme --tiers nvme --chunks 64
`;
const { values: flags } = parseArgs({
  options: {
    root: { type: "string", default: tmpdir() },
    rounds: { type: "string", default: "5" },
    mebibytes: { type: "string", default: "256" },
    tiers: { type: "string", default: "posix,nvme,memory" },
    chunks: { type: "string", default: "64,256,1024,4096" },
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

function spread(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return { median: sorted[sorted.length >> 1], min: sorted[0], max: sorted.at(-1) };
}

function summaries({ chunkBytes, blocks, rounds }) {
  return [...new Set(rounds.map(({ tier }) => tier))].sort().map((tier) => {
    const own = rounds.filter((round) => round.tier === tier);
    const measures = Object.entries(MEASURES).map(([name, read]) => [name, spread(own.map(read))]);
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
  return barChart("vLLM's fs tier and kvferry's tiers at vLLM's tier interface", subtitle, panels);
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

/** Medians of each of our tiers over those of vLLM's, and of fio: more than 1 is faster. */
function ratios({ summary, chunks }) {
  return chunks.flatMap(({ chunkBytes, fio }) => {
    const of = (tier, measure) =>
      summary.find((each) => each.chunkBytes === chunkBytes && each.tier === tier)?.[measure]?.median;
    return Object.keys(servers).map((tier) => {
      const over = (measure) => of(tier, measure) / of("fs", measure);
      const overFio = (phase, measure) =>
        fio.length > 0 ? of(tier, measure) / spread(fio.map((each) => each[phase])).median : undefined;
      return {
        chunkBytes,
        tier,
        store: over("storeGigabytesPerSecond"),
        load: over("loadGigabytesPerSecond"),
        hitKeys: over("hitKeysPerSecond"),
        missRequests: 1 / over("missMicrosecondsPerRequest"),
        storeOverFio: overFio("store", "storeGigabytesPerSecond"),
        loadOverFio: overFio("load", "loadGigabytesPerSecond"),
      };
    });
  });
}

function print({ summary, ratios: table, chunks }) {
  const text = (value) => (value === undefined ? "-" : value >= 100 ? value.toFixed(0) : value.toPrecision(3));
  for (const name of Object.keys(MEASURES)) {
    console.log(`\n${name} (median, min to max)`);
    for (const { chunkBytes, tier, [name]: value } of summary) {
      console.log(
        `  ${`${chunkBytes >> 10} KiB`.padStart(9)}  ${tier.padEnd(8)} ${text(value.median).padStart(9)}   ${text(value.min)} to ${text(value.max)}`,
      );
    }
  }
  const columns = Object.keys(table[0]).slice(2);
  console.log(`\nratios to vLLM's fs tier, and to fio (depth ${FIO_DEPTH})`);
  console.log(`  ${"".padStart(9)}  ${"".padEnd(8)} ${columns.map((name) => name.padStart(13)).join("")}`);
  for (const row of table) {
    const values = columns.map((name) => text(row[name]).padStart(13)).join("");
    console.log(`  ${`${row.chunkBytes >> 10} KiB`.padStart(9)}  ${row.tier.padEnd(8)} ${values}`);
  }
  if (chunks.every(({ fio }) => fio.length === 0)) console.log("fio was not measured: it is not installed");
}

/** The configuration of a server with one tier, each under `storage`. */
function configOf(tier) {
  // a full drive makes room for each round's blocks, as it does for ever after its first days
  const capacity = Number(flags.mebibytes) * MEBIBYTE * WARM_UP_ROUNDS;
  const place = {
    posix: { root: join(storage, "posix") },
    nvme: { path: join(storage, "nvme"), capacity },
    memory: { capacity },
  }[tier];
  if (place === undefined) throw new Error(`--tiers: '${tier}' is none of posix, nvme, memory`);
  return { tiers: [{ backend: tier, ...place }] };
}

async function startServers() {
  const started = {};
  for (const tier of flags.tiers.split(",")) {
    const config = join(scratch, `${tier}.yaml`);
    writeFileSync(config, JSON.stringify(configOf(tier))); // JSON is YAML
    const socket = join(scratch, `${tier}.sock`);
    const server = await startServer(root, ["--config", config], socket);
    started[tier] = { socket, pid: server.child.pid };
  }
  return started;
}

const setup = await setupPython();
const servers = await startServers();
const options = {
  root: storage,
  servers,
  rounds: Number(flags.rounds),
  warmUpRounds: WARM_UP_ROUNDS,
  bytes: Number(flags.mebibytes) * MEBIBYTE,
  chunkBytes: flags.chunks.split(",").map((kibibytes) => Number(kibibytes) * 1024),
  fio: spawnSync("fio", ["--version"]).status === 0,
  fioDepth: FIO_DEPTH,
};
console.log(`${options.rounds} rounds of ${flags.mebibytes} MiB under ${storage}`);
const measured = await benchmark(options, setup);
const report = {
  machine: machine(),
  options: { ...options, root: undefined, servers: Object.keys(servers) },
  ...measured,
};
report.summary = report.chunks.flatMap(summaries);
report.ratios = ratios(report);
mkdirSync(results, { recursive: true });
writeFileSync(join(results, "tier.json"), `${JSON.stringify(report, null, 1)}\n`);
writeFileSync(join(results, "tier.svg"), chart(report));
print(report);
process.exit(0);

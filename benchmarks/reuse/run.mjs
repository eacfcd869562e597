#!/usr/bin/env node
// `npm run bench:reuse`: hit ratio of the eviction policies by capacity, replayed from traces.
import { mkdirSync, writeFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { POLICIES } from "@kvferry/core";
import { belady } from "./belady.mjs";
import { fifo } from "./fifo.mjs";
import { replay } from "./replay.mjs";
import { SYNTHETIC, syntheticTrace } from "./synthetic.mjs";
import { numbered, readTrace } from "./traces.mjs";

const results = resolve(fileURLToPath(import.meta.url), "../../results");
const CAPACITIES = [1000, 3000, 10_000, 30_000, 100_000];
/** For synthetic traces: of the distinct blocks. */
const SHARES = [0.01, 0.03, 0.1, 0.3, 0.6];
const makers = { ...POLICIES, fifo };
const BELADY = "belady";
const NAMES = [...Object.keys(makers), BELADY];

const HELP = `Usage: npm run bench:reuse -- [options]

  --trace FILE        a trace, .jsonl or .jsonl.gz; may be given more than once
  --synthetic         the seeded synthetic traces (default without --trace)
  --capacities LIST   blocks (default ${CAPACITIES.join(",")}; for synthetic traces 1, 3, 10, 30 and 60 % of the distinct blocks)
  --policies LIST     of ${NAMES.join(", ")} (default: all)
  --blocks N          block references of a synthetic trace (default 150000)
  --seed N            of synthetic traces and policies (default 1)
  --help              this text

A line of a trace is a request: {"timestamp": ms, "hash_ids": [id, …]}; equal id = equal block and equal prefix before it. Prints the hit ratio (blocks found in
one unbroken run from the start of the request, over all blocks requested) and the time a block in the policy beside LRU's in this run, and writes
benchmarks/results/reuse.json.
`;

const { values: flags } = parseArgs({
  options: {
    trace: { type: "string", multiple: true, default: [] },
    synthetic: { type: "boolean", default: false },
    capacities: { type: "string" },
    policies: { type: "string", default: NAMES.join(",") },
    blocks: { type: "string", default: "150000" },
    seed: { type: "string", default: "1" },
    help: { type: "boolean", default: false },
  },
});
if (flags.help) {
  process.stdout.write(HELP);
  process.exit(0);
}

function numbers(text, flag) {
  return text.split(",").map((part) => {
    const number = Number(part);
    if (Number.isInteger(number) && number > 0) return number;
    throw new Error(`--${flag}: ${JSON.stringify(part)} is no whole number above 0`);
  });
}

function policyNames() {
  const names = flags.policies.split(",");
  for (const name of names) {
    if (!NAMES.includes(name)) throw new Error(`--policies: no ${JSON.stringify(name)}; there are ${NAMES.join(", ")}`);
  }
  return names;
}

/** The traces to replay, made one at a time. */
function* traces(seed) {
  for (const file of flags.trace) yield { name: basename(file), ...numbered(readTrace(file)), shares: undefined };
  if (flags.trace.length > 0 && !flags.synthetic) return;
  const [blocks] = numbers(flags.blocks, "blocks");
  for (const name of SYNTHETIC) yield { name, ...numbered(syntheticTrace(name, { seed, blocks })), shares: SHARES };
}

function capacitiesOf({ shares, distinct }) {
  if (flags.capacities !== undefined) return numbers(flags.capacities, "capacities");
  return shares?.map((share) => Math.max(1, Math.round(share * distinct))) ?? CAPACITIES;
}

function measure(trace, name, capacity, seed) {
  return name === BELADY ? belady(trace, capacity) : replay(trace, capacity, makers[name], { seed });
}

function printTable(trace, rows, capacities) {
  console.log(
    `\n${trace.name}: ${trace.requests.length} requests, ${trace.references} blocks, ${trace.distinct} distinct`,
  );
  console.log(
    `${"blocks".padEnd(10)}${capacities.map((capacity) => String(capacity).padStart(9)).join("")}   µs/block (× LRU)`,
  );
  const lru = rows.find(({ policy }) => policy === "lru");
  for (const { policy, points } of rows) {
    const ratios = points.map(({ hitRatio }) => hitRatio.toFixed(4).padStart(9)).join("");
    console.log(`${policy.padEnd(10)}${ratios}   ${timing(points, lru?.points)}`);
  }
}

function timing(points, lru) {
  const mean = (list) => list.reduce((sum, point) => sum + point.microsecondsPerBlock, 0) / list.length;
  if (points[0]?.microsecondsPerBlock === undefined) return "";
  const own = mean(points);
  return `${own.toFixed(3)}${lru === undefined ? "" : ` (${(own / mean(lru)).toFixed(1)})`}`;
}

function main() {
  const [seed] = numbers(flags.seed, "seed");
  const names = policyNames();
  const report = [];
  for (const trace of traces(seed)) {
    const capacities = capacitiesOf(trace);
    const rows = names.map((policy) => ({
      policy,
      points: capacities.map((capacity) => ({ capacity, ...measure(trace, policy, capacity, seed) })),
    }));
    printTable(trace, rows, capacities);
    const { name, requests, references, distinct } = trace;
    report.push({ trace: name, requests: requests.length, references, distinct, policies: rows });
  }
  mkdirSync(results, { recursive: true });
  writeFileSync(join(results, "reuse.json"), `${JSON.stringify({ seed, traces: report }, null, 2)}\n`);
}

try {
  main();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exit(1);
}

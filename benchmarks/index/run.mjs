#!/usr/bin/env node
// `npm run bench:index`: memory, lookups, snapshot and recovery of the prefix index. See measure.mjs for what is measured.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { cleanUpAtExit, start } from "../../scripts/lib/processes.mjs";
import { machine } from "../lib/machine.mjs";

const root = resolve(fileURLToPath(import.meta.url), "../../..");
const results = join(root, "benchmarks/results");

const HELP = `Usage: npm run bench:index -- [options]

  --blocks LIST   numbers of blocks, with commas (default 1000000,10000000)
  --root DIR      where the index's files go (default: the system's temporary folder)
  --help          this text

Writes benchmarks/results/index.json.
`;
const { values: flags } = parseArgs({
  options: {
    blocks: { type: "string", default: "1000000,10000000" },
    root: { type: "string", default: tmpdir() },
    help: { type: "boolean", default: false },
  },
});
if (flags.help) {
  process.stdout.write(HELP);
  process.exit(0);
}
const sizes = flags.blocks.split(",").map(Number);
if (!sizes.every((blocks) => Number.isInteger(blocks) && blocks > 0)) {
  process.stderr.write(`--blocks takes whole numbers with commas between them, got ${flags.blocks}\n`);
  process.exit(2);
}

const scratch = mkdtempSync(join(flags.root, "kvferry-bench-index-"));
cleanUpAtExit(() => rmSync(scratch, { recursive: true, force: true }));

async function measure(part, blocks) {
  const folder = join(scratch, String(blocks));
  const script = join(root, "benchmarks/index/measure.mjs");
  const child = start(process.execPath, ["--expose-gc", script, JSON.stringify({ part, blocks, folder })]);
  let output = "";
  child.child.stdout.setEncoding("utf8").on("data", (data) => {
    output += data;
  });
  if ((await child.ended) !== 0) throw new Error(child.errors());
  return JSON.parse(output);
}

async function measureAll(blocks) {
  const lookups = await measure("lookups", blocks);
  const log = await measure("log", blocks);
  const { recovery, snapshot } = await measure("fromLog", blocks);
  const recoveryFromSnapshot = await measure("fromSnapshot", blocks);
  rmSync(join(scratch, String(blocks)), { recursive: true });
  return { lookups, log, snapshot, recoveryFromLog: recovery, recoveryFromSnapshot };
}

/** Of CPU: on a machine that does nothing else, a second. */
const million = (value) => `${(value / 1e6).toFixed(2)} M/s`;
const fixed = (unit, digits) => (value) => `${value.toFixed(digits)} ${unit}`;
/** Rows of the table: what, how to read it, how to write it. */
const TABLE = [
  ["blocks", (of) => of.lookups.blocks, String],
  ["memory a block, as it counts itself", (of) => of.lookups.bytesPerBlock, fixed("B", 1)],
  ["memory a block, heap and buffers", (of) => of.lookups.heapBytesPerBlock, fixed("B", 1)],
  ["memory a block, resident", (of) => of.lookups.rssBytesPerBlock, fixed("B", 1)],
  ["insert", (of) => of.lookups.insertPerSecond, million],
  ["slowest insert of 1,024 blocks", (of) => of.lookups.slowestInsertMs, fixed("ms", 1)],
  ["findMany, there, anywhere", (of) => of.lookups.findRandomHitsPerSecond, million],
  ["findMany, there, a request", (of) => of.lookups.findRequestHitsPerSecond, million],
  ["findMany, not there", (of) => of.lookups.findMissesPerSecond, million],
  ["longestPrefix", (of) => of.lookups.longestPrefixKeysPerSecond, million],
  ["touch", (of) => of.lookups.touchPerSecond, million],
  ["snapshot, under touches", (of) => of.snapshot.seconds, fixed("s", 2)],
  ["snapshot, size", (of) => of.snapshot.bytes / 1e6, fixed("MB", 0)],
  ["snapshot, longest pause", (of) => of.snapshot.longestPauseMs, fixed("ms", 1)],
  ["recovery from a snapshot, to the first answer", (of) => of.recoveryFromSnapshot.seconds, fixed("s", 2)],
  ["the same, CPU", (of) => of.recoveryFromSnapshot.cpuSeconds, fixed("s", 2)],
  ["recovery from a log alone, to the first answer", (of) => of.recoveryFromLog.seconds, fixed("s", 2)],
  ["the same, CPU", (of) => of.recoveryFromLog.cpuSeconds, fixed("s", 2)],
];

function print(measured) {
  for (const [title, read, write] of TABLE) {
    console.log(`${title.padEnd(48)}${measured.map((of) => write(read(of)).padStart(14)).join("")}`);
  }
}

const measured = [];
for (const blocks of sizes) measured.push(await measureAll(blocks));
const report = { machine: machine(), measured };
mkdirSync(results, { recursive: true });
writeFileSync(join(results, "index.json"), `${JSON.stringify(report, null, 1)}\n`);
console.log(JSON.stringify(report));
print(measured);
process.exit(0);

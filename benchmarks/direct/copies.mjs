#!/usr/bin/env node
// `npm run bench:direct`: gathers and scatters of another process's memory beside memcpy and a bare loop of process_vm_readv, in alternating rounds.
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { createFileEngine, createRegion } from "@kvferry/native";
import { median } from "../lib/contest.mjs";
import { machine } from "../lib/machine.mjs";

const here = fileURLToPath(new URL(".", import.meta.url));
const results = resolve(here, "../results");
const KIBIBYTE = 1024;
const TENSORS = 16;
/** Of a chunk, where a page is not larger than what that leaves for it. */
const CHUNK_BYTES = 1024 * KIBIBYTE;
const CONTENDERS = ["kvferry", "bare", "memcpy"];
const DIRECTIONS = ["gather", "scatter"];

const HELP = `Usage: npm run bench:direct -- [options]

  --rounds N       rounds that are reported (default 9; one more before them is not)
  --mebibytes N    bytes of a phase (default 256)
  --threads N      that copy, the same for all (default 1)
  --pages LIST     KiB a page (default 2,4,16,64,256,1024)
  --help           this text

Contenders, over the same pages in the same order, into the same host memory:
  kvferry   Device.gather and Device.scatter of @kvferry/native, kind process: a real other process
  bare      a loop of process_vm_readv and process_vm_writev with 1,024 pages a call, nothing checked, the same other process
  memcpy    page by page within one process

Needs a C++ compiler. Prints JSON and a table and writes benchmarks/results/direct.json. Only ratios within one run mean anything; those of CPU seconds
bear a busy machine better than those of time.
`;
const { values: flags } = parseArgs({
  options: {
    rounds: { type: "string", default: "9" },
    mebibytes: { type: "string", default: "256" },
    threads: { type: "string", default: "1" },
    pages: { type: "string", default: "2,4,16,64,256,1024" },
    help: { type: "boolean", default: false },
  },
});
if (flags.help) {
  process.stdout.write(HELP);
  process.exit(0);
}
const [rounds, mebibytes, threads] = [flags.rounds, flags.mebibytes, flags.threads].map(Number);
const pageSizes = flags.pages.split(",").map((size) => Number(size) * KIBIBYTE);
const scratch = mkdtempSync(join(tmpdir(), "kvferry-direct-"));

try {
  const measured = [];
  const program = compileLoops();
  for (const pageBytes of pageSizes) measured.push(await measure(program, pageBytes));
  const facts = { measuredAt: new Date().toISOString(), machine: machine(), rounds, mebibytes, threads, measured };
  mkdirSync(results, { recursive: true });
  writeFileSync(join(results, "direct.json"), `${JSON.stringify(facts, null, 1)}\n`);
  console.log(JSON.stringify(facts));
  printTable(measured);
} finally {
  rmSync(scratch, { recursive: true, force: true });
}

function compileLoops() {
  const program = join(scratch, "loops");
  const args = ["-std=c++20", "-O2", "-pthread", join(here, "loops.cc"), "-o", program];
  const { status } = spawnSync(process.env.CXX ?? "g++", args, { stdio: ["ignore", "inherit", "inherit"] });
  if (status !== 0) throw new Error("loops.cc was not compiled: it needs g++, or the compiler that CXX names");
  return program;
}

async function measure(program, pageBytes) {
  const blocksPerChunk = Math.max(1, CHUNK_BYTES / (TENSORS * pageBytes));
  const partBytes = TENSORS * blocksPerChunk * pageBytes;
  const chunks = Math.max(1, Math.floor((mebibytes * KIBIBYTE * KIBIBYTE) / partBytes));
  const pages = chunks * blocksPerChunk;
  const blocks = shuffled(pages);
  const region = createRegion({ rows: chunks, rowBytes: partBytes });
  region.bytes.fill(2);
  const list = join(scratch, "blocks");
  writeFileSync(list, blocks);
  const memoryBytes = TENSORS * pages * pageBytes;
  const numbers = [memoryBytes, TENSORS, pageBytes, blocksPerChunk, chunks, threads].map(String);
  const loops = await startLoops(program, [`/proc/${process.pid}/fd/${region.fd}`, list, ...numbers]);
  const device = await openDevices({
    memory: { kind: "process", pid: loops.pid, memories: [{ address: loops.address, bytes: memoryBytes }] },
    layout: {
      tensors: Array.from({ length: TENSORS }, (_, i) => {
        return { memory: 0, offset: i * pages * pageBytes, strideBytes: pageBytes, pageBytes, pages };
      }),
      groups: [Array.from({ length: TENSORS }, (_, tensor) => ({ tensor, bytes: pageBytes }))],
      blocksPerChunk,
    },
  });
  const copies = {
    host: region.bytes,
    hostOffsets: Float64Array.from({ length: chunks }, (_, i) => i * partBytes),
    groups: new Uint32Array(chunks),
    blocks,
  };
  const run = (contender, direction) =>
    contender === "kvferry" ? copyOnce(device, direction, copies) : loops.run(contender, direction);
  const found = { pageBytes, partBytes, chunks, ...(await contest(run, chunks * partBytes)) };
  await device.close();
  await loops.close();
  region.close();
  return found;
}

/** All contenders in turn, the first one another one each round. */
async function contest(run, bytes) {
  const raw = {};
  for (let round = -1; round < rounds; round++) {
    for (const direction of DIRECTIONS) {
      for (let i = 0; i < CONTENDERS.length; i++) {
        const contender = CONTENDERS[(i + round + 1) % CONTENDERS.length];
        const { seconds, cpuSeconds } = await run(contender, direction);
        if (round < 0) continue;
        raw[direction] ??= Object.fromEntries(CONTENDERS.map((name) => [name, { GBps: [], GBpCpuSecond: [] }]));
        raw[direction][contender].GBps.push(bytes / seconds / 1e9);
        raw[direction][contender].GBpCpuSecond.push(bytes / cpuSeconds / 1e9);
      }
    }
  }
  const overMemcpy = {};
  for (const direction of DIRECTIONS) {
    const of = (name, unit) => median(raw[direction][name][unit].map((x, i) => x / raw[direction].memcpy[unit][i]));
    overMemcpy[direction] = {
      kvferry: { time: of("kvferry", "GBps"), cpu: of("kvferry", "GBpCpuSecond") },
      bare: { time: of("bare", "GBps"), cpu: of("bare", "GBpCpuSecond") },
    };
  }
  return { overMemcpy, raw };
}

/** Stores never get all threads of an engine, so gathers need one more of them for the same number that copy. */
async function openDevices(options) {
  let engineThreads = threads;
  while (engineThreads > 1 && engineThreads - Math.max(1, Math.floor(engineThreads / 4)) < threads) engineThreads++;
  const engines = { gather: createFileEngine({ threads: engineThreads }), scatter: createFileEngine({ threads }) };
  const devices = {
    gather: await engines.gather.openDevice(options),
    scatter: await engines.scatter.openDevice(options),
  };
  return {
    gather: (copies) => devices.gather.gather(copies),
    scatter: (copies) => devices.scatter.scatter(copies),
    async close() {
      for (const each of [devices.gather, devices.scatter, engines.gather, engines.scatter]) await each.close();
    },
  };
}

async function copyOnce(device, direction, copies) {
  const cpuBefore = process.cpuUsage();
  const begin = performance.now();
  const { outcomes } = await device[direction](copies);
  const seconds = (performance.now() - begin) / 1000;
  const { user, system } = process.cpuUsage(cpuBefore);
  if (outcomes.includes(0)) throw new Error(`${direction}: a chunk failed`);
  return { seconds, cpuSeconds: (user + system) / 1e6 };
}

async function startLoops(program, args) {
  const child = spawn(program, args, { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const answer = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error("loops has ended");
    return JSON.parse(value);
  };
  const { pid, address } = await answer();
  return {
    pid,
    address,
    async run(contender, direction) {
      child.stdin.write(`${contender} ${direction}\n`);
      return answer();
    },
    async close() {
      const end = once(child, "exit");
      child.stdin.end();
      await end;
    },
  };
}

/** The same every time; no page follows its neighbour, but for chance. */
function shuffled(count) {
  const numbers = Uint32Array.from({ length: count }, (_, i) => i);
  let state = 1;
  for (let i = count - 1; i > 0; i--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const j = state % (i + 1);
    [numbers[i], numbers[j]] = [numbers[j], numbers[i]];
  }
  return numbers;
}

function printTable(measured) {
  const row = (cells) => console.log(cells.map((cell, i) => String(cell).padStart(i === 0 ? 9 : 16)).join(""));
  const fixed = (number) => number.toFixed(2);
  console.log(`\nGB/s of ${threads} thread(s), and over memcpy by time (by CPU seconds); medians of ${rounds} rounds`);
  row(["page", "", ...CONTENDERS, "kvferry/memcpy", "bare/memcpy"]);
  for (const { pageBytes, overMemcpy, raw } of measured) {
    for (const direction of DIRECTIONS) {
      const ratio = ({ time, cpu }) => `${fixed(time)} (${fixed(cpu)})`;
      row([
        `${pageBytes / KIBIBYTE} KiB`,
        direction,
        ...CONTENDERS.map((name) => fixed(median(raw[direction][name].GBps))),
        ratio(overMemcpy[direction].kvferry),
        ratio(overMemcpy[direction].bare),
      ]);
    }
  }
}

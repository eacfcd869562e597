#!/usr/bin/env node
// `npm run bench:engines`: two real vLLM engines with the same prompts, in tier mode and in direct mode: the host memory that holds KV, the time to the first token, CPU, storage reads.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { cleanUpAtExit, jsonLines, start } from "../../scripts/lib/processes.mjs";
import { setupPython } from "../../scripts/setup-python.mjs";
import { machine } from "../lib/machine.mjs";
import { cpuSeconds, familyOf, sharedBytes } from "./host-memory.mjs";

const root = resolve(fileURLToPath(import.meta.url), "../../..");
const MEBIBYTE = 2 ** 20;
const READY_MS_MAX = 60_000;

const HELP = `Usage: npm run bench:engines -- [options]

  --prompts N      prompts that both engines get (default 50)
  --tokens N       tokens of a prompt (default 1024; 4 KiB of KV each)
  --mebibytes N    host memory for KV: of each engine in tier mode, of the server in direct mode (default 256)
  --help           this text

Needs a build. Writes benchmarks/results/direct-engines.json.
`;
const { values: flags } = parseArgs({
  options: {
    prompts: { type: "string", default: "50" },
    tokens: { type: "string", default: "1024" },
    mebibytes: { type: "string", default: "256" },
    help: { type: "boolean", default: false },
  },
});
if (flags.help) {
  process.stdout.write(HELP);
  process.exit(0);
}
const prompts = Array.from({ length: Number(flags.prompts) }, (_, i) => [i, Number(flags.tokens)]);
const hostBytes = Number(flags.mebibytes) * MEBIBYTE;
const scratch = mkdtempSync(join(tmpdir(), "kvferry-bench-"));
cleanUpAtExit(() => rmSync(scratch, { recursive: true, force: true }));

const MODES = {
  // The engines' regions are all the host memory there is: the server has none.
  tier: {
    tiers: (folder) => [{ backend: "posix", root: folder }],
    engine: (socket) => ({
      cpu_bytes: hostBytes,
      tier: { type: "KvferryTier", module_path: "kvferry_vllm", ...options(socket) },
    }),
  },
  direct: {
    tiers: (folder) => [
      { backend: "memory", capacity: hostBytes },
      { backend: "posix", root: folder },
    ],
    engine: (socket) => ({ direct: options(socket) }),
  },
};

// A lookup that a busy machine answers late would be a miss.
function options(socket) {
  return { socket, lookup_deadline_ms: 20_000 };
}

async function startServer(mode) {
  const socket = join(scratch, `${mode}.sock`);
  const port = 20_000 + (process.pid % 20_000) + Object.keys(MODES).indexOf(mode);
  const config = join(scratch, `${mode}.yaml`);
  const tiers = MODES[mode].tiers(join(scratch, mode));
  writeFileSync(config, JSON.stringify({ socket, http: `127.0.0.1:${port}`, tiers }));
  const cli = join(root, "apps/connector-server/dist/cli.js");
  const server = start(process.execPath, [cli, "serve", "--config", config, "--log-level", "warn"], {
    stdout: "ignore",
  });
  const deadline = performance.now() + READY_MS_MAX;
  while (!(await accepts(socket))) {
    if (performance.now() > deadline) throw new Error(`the server did not come up\n${server.errors()}`);
    await new Promise((done) => setTimeout(done, 100));
  }
  return { socket, server, pid: server.child.pid, metrics: () => metricsOf(`http://127.0.0.1:${port}/metrics`) };
}

function accepts(path) {
  return new Promise((done) => {
    const socket = connect(path, () => {
      socket.destroy();
      done(true);
    });
    socket.on("error", () => done(false));
  });
}

/** Keys that were loaded from the folder. */
async function metricsOf(url) {
  const text = await (await fetch(url)).text();
  let reads = 0;
  for (const line of text.split("\n")) {
    const sample = /^kvferry_backend_keys_total\{(.*)\} (\d+)$/.exec(line);
    if (
      sample &&
      /operation="load"/.test(sample[1]) &&
      /outcome="loaded"/.test(sample[1]) &&
      /backend="posix/.test(sample[1])
    )
      reads += Number(sample[2]);
  }
  return { storageReads: reads, text };
}

async function startEngine(mode, socket, { python, env }) {
  const engine = {
    ...MODES[mode].engine(socket),
    model: join(tmpdir(), `kvferry-engine-test-${process.getuid()}-llama`),
    kind: "llama",
  };
  const plugin = join(root, "apps/vllm-plugin");
  const child = start(python, [join(plugin, "engine_tests/engine_process.py"), JSON.stringify(engine)], {
    env: { ...env, PYTHONPATH: [join(plugin, "src"), join(plugin, "tests")].join(delimiter) },
    stdin: "pipe",
  });
  const answers = jsonLines(child);
  await answers.next(); // ready
  return {
    pid: child.child.pid,
    ask(command) {
      child.child.stdin.write(`${JSON.stringify(command)}\n`);
      return answers.next();
    },
    stop() {
      child.child.kill("SIGKILL");
      return child.ended;
    },
  };
}

/** What an engine that has never seen the prompts does with them, in its own time. */
async function ask(engine) {
  const { results } = await engine.ask({ do: "run", prompts, tokens: 1 });
  const seconds = results.map((each) => each.seconds).sort((a, b) => a - b);
  return {
    tokens: results.map((each) => each.tokens),
    cached: results.reduce((sum, each) => sum + each.cached, 0),
    firstTokenMs: { first: results[0].seconds * 1000, median: seconds[seconds.length >> 1] * 1000 },
  };
}

async function measure(mode, python) {
  const server = await startServer(mode);
  const first = await startEngine(mode, server.socket, python);
  let second = await startEngine(mode, server.socket, python);
  const pids = () => [server.pid, first.pid, second.pid].flatMap(familyOf);
  const cpuAtStart = cpuSeconds(pids());

  const computed = await ask(first);
  await first.ask({ do: "settle" });
  const { storageReads: readsBefore } = await server.metrics();
  const shared = await ask(second);
  await second.ask({ do: "settle" });
  const { storageReads: readsAfter } = await server.metrics();
  const cpu = cpuSeconds(pids()) - cpuAtStart;
  const memory = sharedBytes(pids());

  await second.stop();
  second = await startEngine(mode, server.socket, python);
  const restarted = await ask(second);
  for (const each of [shared, restarted]) {
    if (JSON.stringify(each.tokens) !== JSON.stringify(computed.tokens))
      throw new Error(`${mode}: other tokens from the cache`);
  }
  const report = {
    hostMemoryBytes: Object.values(memory).reduce((sum, each) => sum + each, 0),
    hostMemory: memory,
    computedMs: computed.firstTokenMs,
    sharedMs: shared.firstTokenMs,
    restartedMs: restarted.firstTokenMs,
    cachedTokens: { shared: shared.cached, restarted: restarted.cached },
    storageReads: readsAfter - readsBefore,
    cpuSeconds: cpu,
  };
  await Promise.all([first.stop(), second.stop()]);
  server.server.child.kill("SIGTERM");
  await server.server.ended;
  return report;
}

const python = await setupPython({ log: console.error });
const report = { machine: machine(), prompts: prompts.length, tokens: Number(flags.tokens), hostBytes, modes: {} };
for (const mode of Object.keys(MODES)) report.modes[mode] = await measure(mode, python);
const { tier, direct } = report.modes;
report.hostMemoryRatio = direct.hostMemoryBytes / tier.hostMemoryBytes;
writeFileSync(join(root, "benchmarks/results/direct-engines.json"), `${JSON.stringify(report, undefined, 2)}\n`);
console.log(JSON.stringify(report, undefined, 2));
console.log(`
two engines, ${prompts.length} prompts of ${flags.tokens} tokens      tier      direct
host memory that holds KV, MiB          ${row(tier.hostMemoryBytes / MEBIBYTE, direct.hostMemoryBytes / MEBIBYTE)}   ratio ${report.hostMemoryRatio.toFixed(2)}
first token, computed, median ms        ${row(tier.computedMs.median, direct.computedMs.median)}
first token, second engine, median ms   ${row(tier.sharedMs.median, direct.sharedMs.median)}
first token, after restart, median ms   ${row(tier.restartedMs.median, direct.restartedMs.median)}
blocks read from storage for the second ${row(tier.storageReads, direct.storageReads)}
CPU seconds of all processes            ${row(tier.cpuSeconds, direct.cpuSeconds)}`);
process.exit(0);

function row(one, other) {
  return [one, other].map((each) => each.toFixed(1).padStart(10)).join("");
}

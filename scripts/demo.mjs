#!/usr/bin/env node
// `npm run demo`: what kvferry is for, seen on this machine. From a fresh clone; plain Node, because nothing may be installed.
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { startServer } from "./demo/server.mjs";
import { installIsStale } from "./lib/install.mjs";
import { cleanUpAtExit, runToEnd } from "./lib/processes.mjs";
import { findPython, setupPython } from "./setup-python.mjs";

const root = resolve(fileURLToPath(import.meta.url), "../..");

const HELP = `Usage: npm run demo -- [options]

  --json         print the result as JSON on stdout, everything else on stderr
  --no-python    leave vLLM out: show the same road with the TypeScript client
  --help         this text

Installs and builds what is missing, makes a small model with random weights (no download), then: an engine answers prompts
cold and is killed, a new one answers them warm, and so does another beside it. Exit code 0 if the goals hold, 1 if not, 2 if it
could not run.
`;

function options() {
  try {
    const known = { json: { type: "boolean" }, "no-python": { type: "boolean" }, help: { type: "boolean" } };
    return parseArgs({ options: known }).values;
  } catch (error) {
    process.stderr.write(`${error.message}\n\n${HELP}`);
    process.exit(2);
  }
}

const flags = options();
if (flags.help) {
  process.stdout.write(HELP);
  process.exit(0);
}

const log = (line) => (flags.json ? process.stderr : process.stdout).write(`${line}\n`);
const scratch = mkdtempSync(join(tmpdir(), "kvferry-demo-")); // short: a socket's path has at most 107 bytes
cleanUpAtExit(() => rmSync(scratch, { recursive: true, force: true }));

async function step(name, action) {
  const start = performance.now();
  log(`... ${name}`);
  const result = await action();
  log(`ok  ${name} (${((performance.now() - start) / 1000).toFixed(1)} s)`);
  return result;
}

async function prepare() {
  const env = { TURBO_TELEMETRY_DISABLED: "1", DO_NOT_TRACK: "1" };
  if (installIsStale(root))
    await step("npm ci", () => runToEnd("npm", ["ci", "--no-audit", "--no-fund"], { cwd: root, env }));
  await step("npm run build", () => runToEnd("npm", ["run", "build"], { cwd: root, env }));
}

/** Which road can be gone here: with vLLM, or why not. */
async function pythonOrReason() {
  if (flags["no-python"]) return { reason: "--no-python" };
  const found = await findPython();
  if (found.reason !== undefined && !existsSync(join(root, ".venv/bin/python"))) return { reason: found.reason };
  try {
    return await setupPython({ log });
  } catch (error) {
    return { reason: error.message };
  }
}

async function takeRoad() {
  const socket = join(scratch, "s");
  const python = await pythonOrReason();
  await startServer(root, ["--data", join(scratch, "data")], socket);
  log("ok  kvferry serve is ready");
  if (python.reason === undefined) {
    const { engineRoad } = await import("./demo/engine-road.mjs");
    return engineRoad({ root, socket, log, ...python });
  }
  log(`\nWithout vLLM (${python.reason}): the same road with the TypeScript client.`);
  const { clientRoad } = await import("./demo/client-road.mjs");
  return clientRoad({ root, socket, log });
}

function printTable({ rows, columns }) {
  const cells = [columns.map(([title]) => title), ...rows.map((row) => columns.map(([, text]) => text(row)))];
  const widths = columns.map((_, i) => Math.max(...cells.map((line) => line[i].length)));
  log("");
  for (const line of cells) log(`  ${line.map((cell, i) => cell.padEnd(widths[i])).join("  ")}`);
  log("");
}

try {
  await prepare();
  const { columns, ...result } = await takeRoad();
  printTable({ rows: result.rows, columns });
  for (const { goal, holds } of result.goals) log(`  ${holds ? "holds    " : "NOT HELD "} ${goal}`);
  if (flags.json) process.stdout.write(`${JSON.stringify(result, null, 2)}\n`);
  process.exit(result.holds ? 0 : 1);
} catch (error) {
  log(`FAIL ${error.message}`);
  process.exit(2);
}

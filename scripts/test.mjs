#!/usr/bin/env node
// `npm test`: from a fresh clone to one line of counts. Plain Node, because nothing may be installed yet.
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { installIsStale } from "./lib/install.mjs";
import { cleanUpAtExit, runCommand } from "./lib/processes.mjs";

const root = resolve(fileURLToPath(import.meta.url), "../..");

/** In the order in which they run: the quickest to tell of a mistake comes first. */
const SUITE_NAMES = ["typescript", "packed", "nfs", "cpp", "cpp-asan", "cpp-tsan", "python", "engine", "nfs-engine"];

const HELP = `Usage: npm test -- [options]

  --all         also install the system packages that suites need (wants root)
  --only NAME   run one suite; may be repeated: ${SUITE_NAMES.join(", ")}
  --json        print the results as JSON on stdout, everything else on stderr
  --help        this text

Installs and builds first where that is needed. A suite that cannot run here is named with its reason.
The last line is "N passed, N failed", with ", N skipped" when tests were skipped.
`;

function options() {
  try {
    const { values } = parseArgs({
      options: {
        all: { type: "boolean", default: false },
        only: { type: "string", multiple: true, default: [] },
        json: { type: "boolean", default: false },
        help: { type: "boolean", default: false },
      },
    });
    const unknown = values.only.filter((name) => !SUITE_NAMES.includes(name));
    if (unknown.length > 0) throw new Error(`no suite is called ${unknown.join(", ")}`);
    return values;
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
const scratch = mkdtempSync(join(tmpdir(), "kvferry-test-"));
cleanUpAtExit(() => rmSync(scratch, { recursive: true, force: true }));

/** What suites get: where the repository is, a folder for their reports, and how to run a command. */
const ctx = {
  root,
  scratch,
  all: flags.all,
  log,
  run: (command, args, runOptions = {}) => runCommand(command, args, { cwd: root, ...runOptions }),
};

const seconds = (start) => `${((performance.now() - start) / 1000).toFixed(1)} s`;

/** One line a step; its output only if it failed. */
async function step(name, command, args) {
  const start = performance.now();
  log(`... ${name}`);
  const { code, output } = await ctx.run(command, args);
  log(`${code === 0 ? "ok " : "FAIL"} ${name} (${seconds(start)})`);
  if (code !== 0) log(indent(tail(output, 200)));
  return code === 0;
}

const indent = (text) => text.trimEnd().replace(/^/gm, "    ");
const tail = (text, lines) => text.trimEnd().split("\n").slice(-lines).join("\n");

const crashed = (name, reason) => ({ name, state: "crashed", passed: 0, failed: 1, skipped: 0, details: [reason] });

async function runSuite(name) {
  const start = performance.now();
  try {
    const suite = await import(`./suites/${name}.mjs`);
    const available = await suite.available(ctx);
    if (available !== true) {
      log(`--  ${name} not run: ${available}`);
      return { name, state: "not run", passed: 0, failed: 0, skipped: 0, details: [available] };
    }
    log(`... ${name}`);
    const { passed, failed, skipped, details } = await suite.run(ctx);
    const counts = [passed, failed, skipped];
    if (!counts.every(Number.isInteger)) throw new Error(`the suite gave no counts: ${JSON.stringify(counts)}`);
    const result = { name, state: failed === 0 ? "ran" : "failed", passed, failed, skipped, details };
    log(
      `${failed === 0 ? "ok " : "FAIL"} ${name}: ${passed} passed, ${failed} failed, ${skipped} skipped (${seconds(start)})`,
    );
    if (details.length > 0) log(indent(details.join("\n")));
    return result;
  } catch (error) {
    log(`FAIL ${name} crashed (${seconds(start)})`);
    log(indent(String(error?.message ?? error)));
    return crashed(name, tail(String(error?.message ?? error), 1));
  }
}

/** Steps that suites rest on. A step that fails counts as one failed test, and the suites still try. */
async function prepare() {
  const failures = [];
  if (flags.all && existsSync(join(root, "scripts/setup-system.mjs"))) {
    if (!(await step("system packages", process.execPath, ["scripts/setup-system.mjs"]))) failures.push("setup-system");
  }
  if (installIsStale(root) && !(await step("npm ci", "npm", ["ci", "--no-audit", "--no-fund"])))
    failures.push("npm ci");
  if (!failures.includes("npm ci") && !(await step("npm run build", "npm", ["run", "build"]))) failures.push("build");
  return failures.map((name) => crashed(name, "see its output above"));
}

function summary(results) {
  const width = Math.max(...results.map(({ name }) => name.length));
  for (const { name, state, passed, failed, skipped, details } of results) {
    const counts = `${passed} passed, ${failed} failed, ${skipped} skipped`;
    const text =
      state === "not run" ? `not run: ${details[0]}` : state === "crashed" ? `crashed: ${details[0]}` : counts;
    log(`  ${name.padEnd(width)}  ${text}`);
  }
}

const results = await prepare();
for (const name of SUITE_NAMES) {
  if (flags.only.length === 0 || flags.only.includes(name)) results.push(await runSuite(name));
}

const total = { passed: 0, failed: 0, skipped: 0 };
for (const result of results) for (const key of Object.keys(total)) total[key] += result[key];

log("");
summary(results);
log("");
if (flags.json) process.stdout.write(`${JSON.stringify({ ...total, suites: results }, null, 2)}\n`);
log(`${total.passed} passed, ${total.failed} failed${total.skipped > 0 ? `, ${total.skipped} skipped` : ""}`);
process.exitCode = total.failed > 0 ? 1 : 0;

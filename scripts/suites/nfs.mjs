// The NFS backend on real NFS: a guest with a kernel server and two kernel clients, one for each version of NFS, both at a time.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { guestAvailable, runInGuest } from "../lib/nfs-guest/guest.mjs";
import { lastLines } from "../lib/processes.mjs";

export const name = "nfs";

const VERSIONS = ["v3", "v4"];
const PROGRAMS = ["kit", "lookups", "clients", "server", "outage", "nodes", "copy"];
const FOLDER = "packages/backend-nfs/test/guest";
const { KVFERRY_LONG } = process.env;
/** Many times what it takes on a machine of its own. */
const TIMEOUT_MS = (KVFERRY_LONG ? 120 : 15) * 60 * 1000;
/** What the long copy takes: 10 GiB twice, and file systems want room. */
const LONG_COPY_DISK_BYTES = 24 * 2 ** 30;

export function available() {
  return guestAvailable();
}

export async function run({ root, scratch, log }) {
  const options = { root, scratch, log };
  const programs = KVFERRY_LONG ? PROGRAMS.filter((program) => program !== "copy") : PROGRAMS;
  const results = await Promise.all(VERSIONS.map((version) => runVersion({ ...options, version, programs })));
  // in guests with a disk, one at a time: it is the host's
  for (const version of KVFERRY_LONG ? VERSIONS : []) {
    results.push(await runVersion({ ...options, version, programs: ["copy"], diskBytes: LONG_COPY_DISK_BYTES }));
  }
  return {
    passed: results.reduce((sum, { passed }) => sum + passed, 0),
    failed: results.reduce((sum, { failed }) => sum + failed, 0),
    skipped: results.reduce((sum, { skipped }) => sum + skipped, 0),
    details: results.flatMap(({ details }) => details),
  };
}

async function runVersion({ root, scratch, log, version, programs, diskBytes }) {
  const out = join(scratch, `nfs-${version}`);
  const node = `'${process.execPath}' --test-reporter=./scripts/lib/nfs-guest/reporter.mjs`;
  // one after the other, whatever becomes of them
  const lines = programs.map(
    (program) =>
      `${node} --test-reporter-destination=/run/out/${program}.jsonl ${FOLDER}/${program}.mjs ${version}; echo $? > /run/out/${program}.code`,
  );
  const { code, output } = await runInGuest({
    command: ["bash", "-c", lines.join("\n")],
    folder: root,
    env: KVFERRY_LONG ? { KVFERRY_LONG } : {},
    diskBytes,
    out,
    timeoutMs: TIMEOUT_MS,
    onLine: (line) => line.startsWith("# ") && log(`    ${line.slice(2)}`),
  });
  const result = { passed: 0, failed: 0, skipped: 0, details: [] };
  for (const program of programs) addReport(result, join(out, program), `${version} ${program}`);
  if (code !== 0) fail(result, `NFS ${version}: the guest ended with ${code}`, output);
  return result;
}

function addReport(result, path, title) {
  const report = existsSync(`${path}.jsonl`) ? readFileSync(`${path}.jsonl`, "utf8") : "";
  const tests = report
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line));
  for (const test of tests) {
    if (test.skipped) result.skipped++;
    else if (test.passed) result.passed++;
    else fail(result, `${title} > ${test.name}`, test.error);
  }
  const code = existsSync(`${path}.code`) ? readFileSync(`${path}.code`, "utf8").trim() : "no code";
  const crashed = tests.length === 0 || (code !== "0" && tests.every(({ passed }) => passed));
  if (crashed) fail(result, `${title}: ended with ${code} after ${tests.length} tests`, "");
}

function fail(result, title, text) {
  result.failed++;
  result.details.push(`${title}\n  ${lastLines(text, 15)}`);
}

import { existsSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { lastLines } from "../lib/processes.mjs";

export const name = "typescript";

export function available({ root }) {
  return existsSync(join(root, "node_modules/vitest/vitest.mjs")) || "vitest is not installed";
}

export async function run({ root, scratch, run }) {
  const report = join(scratch, "vitest.json");
  const { code, output } = await run(process.execPath, [
    "node_modules/vitest/vitest.mjs",
    "run",
    "--passWithNoTests",
    "--reporter=json",
    `--outputFile=${report}`,
  ]);
  if (!existsSync(report)) {
    // Without a single test file vitest writes no report, and says so by ending well.
    if (code === 0) return { passed: 0, failed: 0, skipped: 0, details: ["no test files"] };
    throw new Error(`vitest wrote no report\n${lastLines(output)}`);
  }
  return summarize(JSON.parse(readFileSync(report, "utf8")), { root, code, output });
}

function summarize(report, { root, code, output }) {
  const counts = { passed: 0, failed: 0, skipped: 0 };
  const details = [];
  for (const file of report.testResults) {
    const path = relative(root, file.name);
    for (const test of file.assertionResults) {
      if (test.status === "passed") counts.passed += 1;
      else if (test.status === "failed") {
        counts.failed += 1;
        details.push(`${path} > ${test.fullName}\n  ${lastLines(test.failureMessages.join("\n"), 15)}`);
      } else counts.skipped += 1;
    }
    const titles = new Set(file.assertionResults.filter(isSkipped).map(({ ancestorTitles: [group] }) => group));
    for (const group of titles) {
      const tests = file.assertionResults.filter(({ ancestorTitles }) => ancestorTitles[0] === group);
      if (tests.every(isSkipped)) details.push(`skipped: ${path} > ${group} (${tests.length} tests)`);
    }
    // A file that cannot be loaded has no tests in the report, yet it is a failure.
    if (file.status === "failed" && !file.assertionResults.some(({ status }) => status === "failed")) {
      counts.failed += 1;
      details.push(`${path}\n  ${lastLines(file.message ?? "failed", 15)}`);
    }
  }
  if (code !== 0 && counts.failed === 0) {
    counts.failed = 1;
    details.push(`vitest ended with ${code} though no test failed\n${lastLines(output)}`);
  }
  return { ...counts, details };
}

const isSkipped = ({ status }) => status !== "passed" && status !== "failed";

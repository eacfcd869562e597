import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { countJunit } from "../../lib/junit.mjs";
import { lastLines } from "../../lib/processes.mjs";

const SETUP = "scripts/setup-python.mjs";

/** pytest's exit codes for "all passed", "some failed" and "no tests collected"; any other is a crash. */
const REPORTED_CODES = [0, 1, 5];

/** @returns the suite of the Python tests in `folder`, run in the virtual environment that setup-python.mjs makes. */
export function pytestSuite(name, folder) {
  return {
    available({ root }) {
      if (!existsSync(join(root, folder))) return `${folder} is not there`;
      return existsSync(join(root, SETUP)) || `${SETUP} is not there`;
    },
    async run({ root, scratch, log, run, all }) {
      const { setupPython } = await import(pathToFileURL(join(root, SETUP)).href);
      const { python } = await setupPython({ log, all, suite: name });
      const report = join(scratch, `${name}.xml`);
      const { code, output } = await run(python, ["-m", "pytest", folder, "-q", `--junit-xml=${report}`]);
      if (!existsSync(report)) throw new Error(`pytest ended with ${code} and wrote no report\n${lastLines(output)}`);
      const counts = countJunit(readFileSync(report, "utf8"));
      if (!REPORTED_CODES.includes(code) || (code === 1 && counts.failed === 0)) {
        counts.failed += 1;
        return { ...counts, details: [`pytest ended with ${code}`, lastLines(output)] };
      }
      return { ...counts, details: counts.failed > 0 ? [lastLines(output)] : [] };
    },
  };
}

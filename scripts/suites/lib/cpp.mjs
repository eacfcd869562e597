import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { lastLines } from "../../lib/processes.mjs";

const SCRIPT = "native/scripts/test-native.mjs";

/** @returns the suite of the C++ tests, plain or under sanitizers (`address,undefined`, `thread`). */
export function cppSuite(name, sanitize) {
  return {
    available({ root }) {
      if (process.platform !== "linux") return "the data plane needs Linux";
      return existsSync(join(root, SCRIPT)) || `${SCRIPT} is not there`;
    },
    async run({ scratch, run }) {
      const report = join(scratch, `${name}.json`);
      const args = [SCRIPT, "--json", report, ...(sanitize ? ["--sanitize", sanitize] : [])];
      const { code, output } = await run(process.execPath, args);
      if (!existsSync(report))
        throw new Error(`${SCRIPT} ended with ${code} and wrote no report\n${lastLines(output)}`);
      const { passed, failed, skipped = 0, details = [] } = JSON.parse(readFileSync(report, "utf8"));
      // A sanitizer can end the process after the counts were written.
      if (code !== 0 && failed === 0) {
        return { passed, failed: 1, skipped, details: [...details, `ended with ${code}`, lastLines(output)] };
      }
      return { passed, failed, skipped, details: failed > 0 && details.length === 0 ? [lastLines(output)] : details };
    },
  };
}

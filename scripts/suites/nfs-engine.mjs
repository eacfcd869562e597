// A real vLLM engine and a server over real NFS, in a guest: the storage is away, cut off and slow in turn. A minute each: only with KVFERRY_LONG.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { countJunit } from "../lib/junit.mjs";
import { guestAvailable, runInGuest } from "../lib/nfs-guest/guest.mjs";
import { lastLines } from "../lib/processes.mjs";
import { setupPython } from "../setup-python.mjs";

export const name = "nfs-engine";

const TEST = "apps/vllm-plugin/engine_tests/test_nfs.py";
const { KVFERRY_LONG } = process.env;
/** vLLM alone takes two. */
const MEMORY_BYTES = 5 * 2 ** 30;
/** A process in the guest has a mapping of the host for every page, at worst. */
const MAPPINGS_FILE = "/proc/sys/vm/max_map_count";
const MAPPINGS_MIN = MEMORY_BYTES / 4096;
/** Many times what it takes on a machine of its own: to import vLLM takes a minute and a half there. */
const TIMEOUT_MS = 45 * 60 * 1000;

export function available() {
  if (!KVFERRY_LONG) return "it takes twenty minutes: set KVFERRY_LONG=1";
  const guest = guestAvailable();
  if (guest !== true) return guest;
  const mappings = Number(readFileSync(MAPPINGS_FILE, "utf8"));
  if (mappings < MAPPINGS_MIN) return `a process of the guest needs more: sysctl -w vm.max_map_count=${MAPPINGS_MIN}`;
  return true;
}

export async function run({ root, scratch, log }) {
  const { python } = await setupPython({ log });
  const out = join(scratch, name);
  const { code, output } = await runInGuest({
    command: [python, "-m", "pytest", "-q", "-s", TEST, "--junit-xml=/run/out/report.xml"],
    folder: root,
    env: { KVFERRY_NFS_MOUNTS: "/run/nfs" },
    memoryBytes: MEMORY_BYTES,
    out,
    timeoutMs: TIMEOUT_MS,
    onLine: (line) => line.includes("# NFS ") && log(`    ${line.slice(line.indexOf("# NFS ") + 2)}`),
  });
  const report = join(out, "report.xml");
  if (!existsSync(report)) throw new Error(`the guest ended with ${code} and wrote no report\n${lastLines(output)}`);
  const counts = countJunit(readFileSync(report, "utf8"));
  if (code !== 0 && counts.failed === 0) counts.failed = 1;
  return { ...counts, details: counts.failed > 0 ? [lastLines(output, 60)] : [] };
}

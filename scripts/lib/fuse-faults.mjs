// Mounts of fuse-faults.c: file systems that fail, are slow or hang on demand. Needs libfuse 3 and its headers, a C compiler and root.
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const source = fileURLToPath(new URL("fuse-faults.c", import.meta.url));
const cache = resolve(fileURLToPath(import.meta.url), "../../../.cache/fuse");
const MOUNT_MS_MAX = 20_000;

/** Why such a mount cannot be made here, or undefined when it can. */
export function fuseProblem() {
  if (!existsSync("/dev/fuse")) return "there is no /dev/fuse";
  if (process.getuid?.() !== 0) return "mounting needs root";
  if (spawnSync("pkg-config", ["--exists", "fuse3"]).status !== 0) return "libfuse3-dev is not installed";
  return spawnSync("cc", ["--version"]).status === 0 ? undefined : "there is no C compiler";
}

function compiled() {
  const binary = join(
    cache,
    `fuse-faults-${createHash("sha256").update(readFileSync(source)).digest("hex").slice(0, 16)}`,
  );
  if (existsSync(binary)) return binary;
  mkdirSync(cache, { recursive: true });
  const flags = execFileSync("pkg-config", ["--cflags", "--libs", "fuse3"], { encoding: "utf8" }).trim().split(/\s+/);
  const unfinished = `${binary}.${process.pid}`;
  execFileSync("cc", ["-O2", "-Wall", source, "-o", unfinished, ...flags]);
  renameSync(unfinished, binary);
  return binary;
}

/** Makes a mount. Until `resume` or `unmount`, whoever touches a stopped one hangs. */
export async function mountFuseFaults() {
  const scratch = mkdtempSync(join(tmpdir(), "kvferry-fuse-"));
  const [backing, folder, control] = ["backing", "mount", "control"].map((name) => join(scratch, name));
  mkdirSync(backing);
  mkdirSync(folder);
  writeFileSync(control, "");
  const daemon = spawn(compiled(), ["-f", folder], {
    env: { ...process.env, FF_ROOT: backing, FF_CTL: control },
    stdio: "ignore",
  });
  const ended = new Promise((done) => daemon.once("exit", done));
  const unmount = async () => {
    daemon.kill("SIGKILL"); // whoever hangs in the mount hears of it by an error
    await ended;
    spawnSync("umount", ["-l", folder]);
    rmSync(scratch, { recursive: true, force: true });
  };
  for (const begin = Date.now(); !isMounted(folder); await sleep(10)) {
    if (daemon.exitCode === null && Date.now() - begin < MOUNT_MS_MAX) continue;
    await unmount();
    throw new Error(`fuse-faults could not be mounted (exit code ${daemon.exitCode})`);
  }
  return {
    folder,
    backing,
    /** Of the daemon. */
    pid: daemon.pid,
    /** Lines of the control file; none: all goes well. */
    faults: (...lines) => writeFileSync(control, lines.map((line) => `${line}\n`).join("")),
    async stop() {
      daemon.kill("SIGSTOP");
      while (!hasStopped(daemon.pid)) await sleep(1);
    },
    resume: () => void daemon.kill("SIGCONT"),
    unmount,
  };
}

function isMounted(folder) {
  return readFileSync("/proc/self/mounts", "utf8").includes(` ${folder} fuse`);
}

/** All threads: one that still runs would answer. */
function hasStopped(pid) {
  return readdirSync(`/proc/${pid}/task`).every((task) => {
    const stat = readFileSync(`/proc/${pid}/task/${task}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2, stat.lastIndexOf(")") + 3) === "T";
  });
}

// A guest with real kernel NFS, where the host's kernel has none: a User-Mode Linux kernel, an ordinary process that needs no image, no network and no
// rights. Its root is the host's, read-only, so that node, node_modules and the built addon are the host's own. One CPU; a system call costs tens of µs.
import { spawn } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statfsSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";

/** Debian's packages that the guest is made of. */
export const GUEST_PACKAGES = ["user-mode-linux", "nfs-kernel-server", "nfs-common", "iproute2", "kmod"];

const PROGRAMS = ["linux.uml", "rpc.nfsd", "rpc.mountd", "exportfs", "mount.nfs", "rpcbind", "ip", "modprobe"];
const INIT = fileURLToPath(new URL("init.sh", import.meta.url));
const MEMORY_BYTES = 2 ** 31;
/** What the kernel says that is no news. */
const NOISE = /^(SELinux: |mmapper_init|Failed to initialize ubd|reboot: |sysrq: )/;

/** Whether the guest can be started here: true, or why not. */
export function guestAvailable() {
  if (process.platform !== "linux" || process.arch !== "x64") return "User-Mode Linux needs Linux on x86-64";
  const folders = [...(process.env.PATH ?? "").split(delimiter), "/usr/sbin", "/sbin"];
  const missing = PROGRAMS.filter((program) => !folders.some((folder) => existsSync(join(folder, program))));
  if (missing.length === 0) return true;
  return `${missing.join(", ")} not installed (apt-get install ${GUEST_PACKAGES.join(" ")}, or npm test -- --all as root)`;
}

/**
 * Runs a command in a new guest; see init.sh for what it finds there. Folder OUT of the host is /run/out.
 * @param {object} options
 * @param {string[]} options.command program and arguments, with paths of the host
 * @param {string} options.folder to run it in
 * @param {string} options.out a folder for what it writes; it also holds the guest's own files
 * @param {number} options.timeoutMs
 * @param {Record<string, string>} [options.env] of the command
 * @param {number} [options.memoryBytes] of the guest; 2 GiB if not given
 * @param {number} [options.diskBytes] have the export and the guest's $TMPDIR on a disk of that size, not in its memory: a sparse file of the host
 * @param {(line: string) => void} [options.onLine] hears of each line of output at once
 * @returns {Promise<{code: number, output: string}>} code of the command; 124: it took too long; 125: the guest ended before it
 */
export async function runInGuest({
  command,
  folder,
  out,
  timeoutMs,
  env = {},
  memoryBytes = MEMORY_BYTES,
  diskBytes,
  onLine,
}) {
  mkdirSync(out, { recursive: true });
  writeFileSync(join(out, "command"), command.map(quoted).join(" "));
  writeFileSync(join(out, "folder"), folder);
  writeFileSync(
    join(out, "env"),
    Object.entries(env)
      .map(([name, value]) => `export ${name}=${quoted(value)}\n`)
      .join(""),
  );
  const exitCode = join(out, "exit-code");
  rmSync(exitCode, { force: true });
  const state = mkdtempSync(join(tmpdir(), "kvferry-nfs-guest-"));
  try {
    const disk = diskBytes === undefined ? undefined : join(state, "disk");
    if (disk !== undefined) makeSparse(disk, diskBytes);
    const { output, timedOut } = await boot({ out, state, memoryBytes, disk, timeoutMs, onLine });
    if (existsSync(exitCode)) return { code: Number(readFileSync(exitCode, "utf8")), output };
    return { code: timedOut ? 124 : 125, output };
  } finally {
    rmSync(state, { recursive: true, force: true });
  }
}

function makeSparse(path, bytes) {
  writeFileSync(path, "");
  truncateSync(path, bytes);
}

function boot({ out, state, memoryBytes, disk, timeoutMs, onLine }) {
  const args = [
    `mem=${memoryBytes / 2 ** 20}M`,
    ...["rootfstype=hostfs", "rootflags=/", "ro", "con=null", "con0=null,fd:1", "ssl=null", "quiet", "loglevel=3"],
    ...["umid=guest", `uml_dir=${state}`, `init=${INIT}`, `GUEST_OUT=${out}`],
    ...(disk === undefined ? [] : [`ubd0=${disk}`, "GUEST_DISK=yes"]),
  ];
  const guest = spawn("linux.uml", args, {
    stdio: ["ignore", "pipe", "ignore"],
    detached: true, // its processes are ended as one group
    env: { ...process.env, TMPDIR: memoryFolder(state, memoryBytes) },
  });
  let output = "";
  let rest = "";
  guest.stdout.setEncoding("utf8").on("data", (text) => {
    const lines = (rest + text).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "" || NOISE.test(line)) continue;
      output += `${line}\n`;
      onLine?.(line);
    }
  });
  return new Promise((resolve, reject) => {
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      killGroup(guest);
    }, timeoutMs);
    const onExit = () => killGroup(guest);
    process.once("exit", onExit);
    guest.once("error", reject);
    guest.once("close", () => {
      clearTimeout(timer);
      process.removeListener("exit", onExit);
      killGroup(guest); // whatever it left behind
      resolve({ output, timedOut });
    });
  });
}

/** Where the guest's memory is: a file that is written all the time. */
function memoryFolder(otherwise, bytes) {
  if (!existsSync("/dev/shm")) return otherwise;
  const { bavail, bsize } = statfsSync("/dev/shm");
  return bavail * bsize > bytes ? "/dev/shm" : otherwise;
}

function killGroup({ pid }) {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch {} // has ended
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

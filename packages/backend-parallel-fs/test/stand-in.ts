import { execFile, execFileSync } from "node:child_process";
import { statfsSync } from "node:fs";
import { appendFile, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL("./stand-ins/", import.meta.url));
const MAGIC = { lustre: "0x0bd00bd0", gpfs: "0x47504653", other: "0xef53" } as const;
const CHILD_TIMEOUT_MS = 580_000;

/** Why the stand-in cannot be built here, or undefined. */
export const missing: string | undefined = (() => {
  try {
    execFileSync("cc", ["--version"], { stdio: "ignore" });
    return process.platform === "linux" ? undefined : "the stand-in needs Linux";
  } catch {
    return "there is no C compiler `cc` for the stand-in";
  }
})();

/** In memory where there is room: the tests are about calls, and the drives of test machines are slow. */
const base: string = (() => {
  try {
    const { bavail, bsize } = statfsSync("/dev/shm");
    return bavail * bsize > 2 ** 30 ? "/dev/shm" : tmpdir();
  } catch {
    return tmpdir();
  }
})();

/** A folder that a child process sees as one on Lustre, or Storage Scale. */
export interface StandIn {
  /** Everything is below it. */
  readonly mount: string;
  readonly root: string;
  /** State of the stand-in for `lfs`. */
  readonly lfs: string;
  /** Of the child process. */
  readonly env: NodeJS.ProcessEnv;
  /** Sets what `lfs df` prints: OSTs by how full they are, in percent. */
  setOsts(usedPercent: readonly number[]): Promise<void>;
  /** What happens to writes: see parallel-fs-stand-in.c; "" for nothing. */
  setFault(line: string): Promise<void>;
  /** What the stand-in did. */
  log(): Promise<string>;
  /** Calls of `lfs`, one a line. */
  lfsCalls(): Promise<string[]>;
  /** Runs a script of this folder in a child process; what it prints is JSON. */
  run<T>(script: string, args: unknown): Promise<T>;
  remove(): Promise<void>;
}

export interface StandInOptions {
  readonly kind: keyof typeof MAGIC;
  /** Default true: the commands are on the PATH. */
  readonly tools?: boolean;
  readonly env?: Readonly<Record<string, string>>;
}

export async function makeStandIn({ kind, tools = true, env: more = {} }: StandInOptions): Promise<StandIn> {
  const home = await mkdtemp(join(base, "kvferry-parallel-fs-stand-in-"));
  const [mount, bin, lfs] = [join(home, "mount"), join(home, "bin"), join(home, "lfs")];
  const [library, faults, log] = [join(home, "stand-in.so"), join(home, "faults"), join(home, "log")];
  for (const each of [mount, bin, lfs]) await mkdir(each);
  execFileSync("cc", [
    "-shared",
    "-fPIC",
    "-O1",
    "-Wall",
    "-o",
    library,
    join(folder, "parallel-fs-stand-in.c"),
    "-ldl",
  ]);
  if (tools) {
    for (const name of kind === "lustre" ? ["lfs"] : ["mmlsfs", "mmlsattr"])
      await symlink(join(folder, `${name}-stand-in.sh`), join(bin, name));
  }
  const env: NodeJS.ProcessEnv = {
    PATH: `${bin}:/usr/bin:/bin`,
    ...{ LD_PRELOAD: library, STAND_IN_ROOT: mount, STAND_IN_MAGIC: MAGIC[kind] },
    ...{ STAND_IN_FAULTS: faults, STAND_IN_LOG: log, LFS_STAND_IN: lfs, LFS_STAND_IN_MOUNT: mount },
    ...more,
  };
  const standIn: StandIn = {
    ...{ mount, root: join(mount, "kv"), lfs, env },
    setOsts: (usedPercent) => writeFile(join(lfs, "targets"), dfText(mount, usedPercent)),
    setFault: (line) => (line === "" ? rm(faults, { force: true }) : writeFile(faults, `${line}\n`)),
    log: () => readFile(log, "utf8").catch(() => ""),
    lfsCalls: async () => (await readFile(join(lfs, "calls"), "utf8").catch(() => "")).split("\n").filter(Boolean),
    run: (script, args) => runChild(fileURLToPath(new URL(`./${script}`, import.meta.url)), args, env),
    remove: () => rm(home, { recursive: true, force: true }),
  };
  await standIn.setOsts([40, 40]);
  await appendFile(join(lfs, "pools"), "flash\n");
  return standIn;
}

/** `lfs df` as lfs-df(1) shows it, in KiB. */
function dfText(mount: string, usedPercent: readonly number[]): string {
  const total = 1_000_000;
  const line = (name: string, used: number, at: string): string =>
    `testfs-${name}_UUID ${total} ${used * 10_000} ${total - used * 10_000} ${used}% ${mount}[${at}] `;
  return [
    "UUID                   1K-blocks        Used   Available Use% Mounted on",
    line("MDT0000", 10, "MDT:0"),
    ...usedPercent.map((used, i) => line(`OST${i.toString(16).padStart(4, "0")}`, used, `OST:${i}`)),
    "",
    `filesystem_summary:  ${total} 1 1 1% ${mount}`,
    "",
  ].join("\n");
}

function runChild<T>(script: string, args: unknown, env: NodeJS.ProcessEnv): Promise<T> {
  return new Promise((resolve, reject) => {
    const options = { env, timeout: CHILD_TIMEOUT_MS, maxBuffer: 1 << 26 };
    execFile(process.execPath, [script, JSON.stringify(args)], options, (error, stdout, stderr) => {
      if (error === null) resolve(JSON.parse(stdout));
      else reject(new Error(`${script}: ${error.message}\n${stderr}`));
    });
  });
}

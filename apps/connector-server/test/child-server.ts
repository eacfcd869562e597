import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { connectUnix } from "@kvferry/native";
import { build } from "tsup";
import { onTestFinished } from "vitest";
import { until } from "./helpers.js";

const packageFolder = join(dirname(fileURLToPath(import.meta.url)), "..");
const bundled: Map<string, Promise<string>> = new Map();

/** A program of this package, bundled from the sources. Only the data plane must have been built.
 * @param entry path in the package. */
export function programOf(entry: string): Promise<string> {
  const known = bundled.get(entry) ?? bundle(entry);
  bundled.set(entry, known);
  return known;
}

async function bundle(entry: string): Promise<string> {
  const name = `${basename(entry, ".ts")}-${process.pid}`;
  const outDir = join(packageFolder, "build"); // a sibling of src: package.json and the schema are where they are looked for
  await build({
    entry: { [name]: join(packageFolder, entry) },
    outDir,
    config: false,
    format: "esm",
    target: "node20",
    platform: "node",
    splitting: false,
    clean: false,
    silent: true,
    skipNodeModulesBundle: true,
    noExternal: [/^@kvferry\/(?!native)/],
    esbuildOptions(options) {
      options.conditions = ["kvferry-source"];
    },
  });
  const file = join(outDir, `${name}.js`);
  process.on("exit", () => rmSync(file, { force: true }));
  return file;
}

export interface Finished {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface ChildServer {
  readonly child: ChildProcess;
  readonly socket: string;
  readonly root: string;
  /** Settles when the process has ended. */
  readonly finished: Promise<Finished>;
  rssBytes(): number;
}

/** Runs the command to its end, or until the test's. */
export async function run(
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<Finished & { child: ChildProcess }> {
  const { child, finished } = await start(args, env);
  return { child, ...(await finished) };
}

export async function start(
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<{ child: ChildProcess; finished: Promise<Finished> }> {
  const child = spawn(process.execPath, [await programOf("src/cli.ts"), ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, ...env },
  });
  const output = { stdout: "", stderr: "" };
  child.stdout.on("data", (bytes) => {
    output.stdout += bytes;
  });
  child.stderr.on("data", (bytes) => {
    output.stderr += bytes;
  });
  const finished = new Promise<Finished>((resolve) => {
    child.on("close", (code, signal) => resolve({ code, signal, ...output }));
  });
  onTestFinished(async () => {
    child.kill("SIGKILL");
    await finished;
  });
  return { child, finished };
}

/** A server in a process of its own that listens. */
export async function serveInChild(folder: string, args: readonly string[] = []): Promise<ChildServer> {
  const socket = join(folder, "kvferry.sock");
  const root = join(folder, "blocks");
  const started = await start(["serve", "--socket", socket, "--data", root, "--http", "off", ...args]);
  await listening(started.finished, socket);
  return { ...started, socket, root, rssBytes: () => rssOf(started.child.pid as number) };
}

/** A server in a process of its own that listens where its configuration says. */
export async function serveConfig(file: string, socket: string): Promise<Awaited<ReturnType<typeof start>>> {
  const started = await start(["serve", "--config", file]);
  await listening(started.finished, socket);
  return started;
}

async function listening(finished: Promise<Finished>, socket: string): Promise<void> {
  let ended: Finished | undefined;
  void finished.then((result) => {
    ended = result;
  });
  await until(() => {
    if (ended !== undefined) throw new Error(`the server ended: ${ended.stderr}`);
    return listens(socket);
  }, 20_000);
}

function listens(socket: string): boolean {
  try {
    connectUnix(socket, { onData() {}, onClose() {} }).close();
    return true;
  } catch {
    return false;
  }
}

function rssOf(pid: number): number {
  const kiB = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  return Number(kiB) * 1024;
}

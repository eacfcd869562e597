import { execFile } from "node:child_process";
import { access, constants } from "node:fs/promises";
import { delimiter, isAbsolute, join } from "node:path";

/** How a command of the file system ended. */
export type ToolResult =
  | { readonly kind: "ok"; readonly stdout: string }
  | { readonly kind: "absent" }
  | { readonly kind: "failed"; readonly message: string }
  /** It did not end in time, as on a file system whose servers are away. */
  | { readonly kind: "hung" };

export interface ToolOptions {
  readonly timeoutMs?: number;
  /** Searched after PATH. */
  readonly folders?: readonly string[];
}

const TIMEOUT_MS = 10_000;
const OUTPUT_BYTES_MAX = 4 << 20;

/** Runs a command line tool without a shell. Never rejects, and returns in time even when the process cannot be killed, which a process that
 * waits in the kernel for a server cannot. */
export async function runTool(name: string, args: readonly string[], options: ToolOptions = {}): Promise<ToolResult> {
  const path = await findTool(name, options.folders ?? []);
  if (path === undefined) return { kind: "absent" };
  // starting a process can throw at once: no memory, for instance
  return run(path, args, options.timeoutMs ?? TIMEOUT_MS).catch((thrown) => ({
    kind: "failed",
    message: (thrown as Error).message,
  }));
}

function run(path: string, args: readonly string[], timeoutMs: number): Promise<ToolResult> {
  return new Promise((resolve) => {
    const env = { ...process.env, LC_ALL: "C" }; // its words are read
    const child = execFile(path, args, { env, maxBuffer: OUTPUT_BYTES_MAX }, (error, stdout, stderr) => {
      clearTimeout(timer);
      if (error === null) resolve({ kind: "ok", stdout });
      else resolve({ kind: "failed", message: stderr.trim().split("\n").at(-1) || error.message });
    });
    const timer = setTimeout(() => {
      child.kill("SIGKILL");
      child.unref();
      for (const stream of [child.stdout, child.stderr]) stream?.destroy();
      resolve({ kind: "hung" });
    }, timeoutMs);
  });
}

async function findTool(name: string, folders: readonly string[]): Promise<string | undefined> {
  const inPath = (process.env.PATH ?? "").split(delimiter).filter(isAbsolute);
  for (const folder of [...inPath, ...folders]) {
    const path = join(folder, name);
    const found = await access(path, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (found) return path;
  }
  return undefined;
}

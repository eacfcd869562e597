import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { KvferryError, toKvferryError } from "@kvferry/core";
import { measure } from "../bench/measure.js";
import { benchSvg, benchText } from "../bench/plot.js";
import { bytesText } from "../sizes.js";
import { sizeOf, type TierConfig } from "../storage/tier-config.js";
import { version } from "../version.js";
import { onInterrupt } from "./interrupt.js";
import { Progress } from "./progress.js";

export interface BenchFlags {
  readonly backend: "posix" | "nvme";
  /** Sizes with commas between them. */
  readonly blocks: string;
  readonly bytes: string;
  readonly plot?: string;
  readonly json?: boolean;
}

/** Room of an nvme tier beyond what is stored: segments that are kept free. */
const NVME_MORE = 3;
const NVME_BYTES_MIN = 2 ** 30;

/** Measures a folder as an engine would use it: through a server of its own. What it stores is removed. */
export async function bench(path: string, flags: BenchFlags): Promise<void> {
  const blockBytes = flags.blocks.split(",").map((text) => sizeOf("--blocks", text) as number);
  const bytes = sizeOf("--bytes", flags.bytes) as number;
  const interrupt = onInterrupt();
  const progress = new Progress(flags.json !== true);
  const folder = await scratchIn(path);
  try {
    const { signal } = interrupt;
    const onStep = (done: number, step: string): void => progress.show(path, done, 100, step);
    const rows = await measure({ tier: tierIn(folder, flags, bytes, blockBytes), blockBytes, bytes, signal, onStep });
    progress.end();
    const title = `${path}, ${flags.backend}, ${bytesText(bytes)} at each size`;
    if (flags.json === true)
      process.stdout.write(`${JSON.stringify({ kvferry: version, path, ...flags, rows }, null, 2)}\n`);
    else process.stdout.write(`${title}\n${benchText(rows)}`);
    if (flags.plot !== undefined) await writeFile(flags.plot, benchSvg(title, rows));
  } catch (thrown) {
    if (!interrupt.signal.aborted) throw thrown;
  } finally {
    progress.end();
    await rm(folder, { recursive: true, force: true });
  }
  process.exitCode = interrupt.code() ?? 0;
}

function tierIn(folder: string, { backend }: BenchFlags, bytes: number, blockBytes: readonly number[]): TierConfig {
  if (backend === "posix") return { backend, root: folder };
  return { backend, path: folder, capacity: Math.max(NVME_BYTES_MIN, bytes * blockBytes.length * NVME_MORE) };
}

async function scratchIn(path: string): Promise<string> {
  try {
    return await mkdtemp(join(resolve(path), ".kvferry-bench-"));
  } catch (thrown) {
    const { code, message } = toKvferryError(thrown, "bench");
    throw new KvferryError(code, `${path} cannot be used: ${message}`, { operation: "bench", cause: thrown });
  }
}

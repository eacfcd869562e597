import { randomBytes } from "node:crypto";
import { existsSync, rmSync } from "node:fs";
import { mkdir, readdir, realpath, rm, stat, statfs } from "node:fs/promises";
import { join } from "node:path";
import { type FolderFacts, fileSystemOf, mountOf, readMounts } from "@kvferry/core";
import { tryFileFeatures } from "@kvferry/native";
import { measureSpeeds } from "./block-speeds.js";
import { measureFiles } from "./file-costs.js";
import { measureVisibility } from "./visibility.js";

const SCRATCH = ".kvferry-doctor-";
/** What a killed probe has left is removed by a later one. */
const LEFT_MS = 60 * 60 * 1000;
const REMOVE_TRIES_MAX = 100;
const REMOVE_PAUSE_MS = 50;

export interface MeasureOptions {
  readonly folder: string;
  readonly observer: string | undefined;
  /** Leaves the speeds out. */
  readonly quick: boolean;
  /** Called when a step begins: of 100 parts of the whole, those that are done. */
  onStep(done: number, step: string): void;
}

/** Finds out what a folder is and does. Its calls may block this process, and hang with the file system: it runs in a process of its own (probe-process.ts).
 * @throws KvferryError where not even files can be made. */
export async function measureFolder({ folder, observer, quick, onStep }: MeasureOptions): Promise<FolderFacts> {
  onStep(0, "what it is");
  const path = await realpath(folder);
  const { type, bsize, blocks, bavail, files, ffree } = await statfs(path);
  await removeLeft(path);
  const scratch = join(path, `${SCRATCH}${randomBytes(8).toString("hex")}`);
  const leave = (): void => removeNow(scratch);
  process.once("exit", leave); // also where nobody reads what the probe says any more, which ends it before a signal does
  process.once("SIGTERM", () => process.exit(1));
  await mkdir(scratch, { mode: 0o700 });
  try {
    onStep(5, "what its calls do");
    const features = await tryFileFeatures(scratch);
    onStep(15, "what files cost");
    const costs = measureFiles(scratch);
    const onChange = (change: string): void => onStep(25, `when a second process sees ${change}`);
    const visibility = await measureVisibility({ scratch, folder: path, observer, onChange });
    const onCell = (done: number, total: number, label: string): void =>
      onStep(35 + Math.floor((done * 60) / total), label);
    const measured = quick ? undefined : await measureSpeeds({ scratch, bytesFree: bavail * bsize, onCell });
    onStep(95, "taking it away");
    return {
      path,
      fileSystem: fileSystemOf(type),
      mount: mountOf(path, await readMounts()),
      space: { bytes: blocks * bsize, bytesFree: bavail * bsize, files, filesFree: ffree, blockBytes: bsize },
      ...{ features, files: costs, visibility, measured },
    };
  } finally {
    await rm(scratch, { recursive: true, force: true });
    process.off("exit", leave);
  }
}

/** Without a turn for the probe to make more. Its threads may still, after a folder was listed or is gone: then once again from the start. */
function removeNow(scratch: string): void {
  for (let tries = 0; tries < REMOVE_TRIES_MAX; tries++) {
    try {
      if (tries > 0 && !existsSync(scratch)) return;
      rmSync(scratch, { recursive: true, force: true });
    } catch {
      // it is not empty any more
    }
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, REMOVE_PAUSE_MS);
  }
}

async function removeLeft(path: string): Promise<void> {
  for (const name of await readdir(path)) {
    if (!name.startsWith(SCRATCH)) continue;
    const left = await stat(join(path, name)).catch(() => undefined);
    if (left !== undefined && Date.now() - left.mtimeMs > LEFT_MS)
      await rm(join(path, name), { recursive: true, force: true });
  }
}

import { type FileHandle, open, readdir, rm } from "node:fs/promises";
import { join } from "node:path";

export const FILE_MODE = 0o600;
const NAME = /^index-(\d{10})\.(log|snapshot)$/;
const TEMPORARY = /^index-\d{10}\.snapshot\.tmp$/;

/** Generations of the files of a folder, lowest first. */
export interface Generations {
  readonly logs: number[];
  readonly snapshots: number[];
}

export function logPath(folder: string, generation: number): string {
  return join(folder, `index-${padded(generation)}.log`);
}

export function snapshotPath(folder: string, generation: number): string {
  return join(folder, `index-${padded(generation)}.snapshot`);
}

function padded(generation: number): string {
  return String(generation).padStart(10, "0");
}

/** What is in the folder; snapshots that were never finished are removed. */
export async function listGenerations(folder: string): Promise<Generations> {
  const found: Generations = { logs: [], snapshots: [] };
  for (const name of (await readdir(folder)).sort()) {
    if (TEMPORARY.test(name)) await rm(join(folder, name), { force: true });
    const match = NAME.exec(name);
    if (match !== null) (match[2] === "log" ? found.logs : found.snapshots).push(Number(match[1]));
  }
  return found;
}

/** Removes the files that `unwanted` names. */
export async function removeGenerations(
  folder: string,
  unwanted: (kind: "log" | "snapshot", generation: number) => boolean,
): Promise<void> {
  const { logs, snapshots } = await listGenerations(folder);
  for (const each of logs) if (unwanted("log", each)) await rm(logPath(folder, each), { force: true });
  for (const each of snapshots) if (unwanted("snapshot", each)) await rm(snapshotPath(folder, each), { force: true });
}

/** Makes names in the folder last. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Writes all of `bytes`; Node may write less at a time. */
export async function writeAll(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, position + done);
    done += bytesWritten;
  }
}

import { join } from "node:path";
import { writerHasEnded } from "@kvferry/core";
import { nodeCalls, type PathCalls } from "./path-calls.js";

const LEFT_BY_OTHER_HOST_MS = 60 * 60 * 1000;

/** Names of the other writers of a namespace that live, or may: those of other hosts count as living for an hour after their last sign. */
export async function livingWriters(
  folder: string,
  own: string,
  nowMs: number,
  calls: PathCalls = nodeCalls,
): Promise<string[]> {
  const living: string[] = [];
  for (const name of await writerNames(folder, calls)) {
    if (name !== own && (await mayLive(folder, name, nowMs, calls))) living.push(name);
  }
  return living;
}

/** Removes the folders, and the files in them, of writers that are gone. Returns how many. */
export async function removeDeadWriters(
  folder: string,
  own: string,
  nowMs: number,
  calls: PathCalls = nodeCalls,
): Promise<number> {
  let removed = 0;
  for (const name of await writerNames(folder, calls)) {
    if (name === own || (await mayLive(folder, name, nowMs, calls))) continue;
    if (await removeWriterFolder(join(folder, name), calls)) removed++;
  }
  return removed;
}

/** Of a writer that has ended. False where NFS keeps a file in it that somebody still has open (`.nfs…`): it goes the next time. */
export async function removeWriterFolder(path: string, calls: PathCalls): Promise<boolean> {
  try {
    await calls.remove(path);
    return true;
  } catch (thrown) {
    if (!["ENOTEMPTY", "EBUSY"].includes((thrown as NodeJS.ErrnoException).code ?? "")) throw thrown;
    return false;
  }
}

async function writerNames(folder: string, calls: PathCalls): Promise<readonly string[]> {
  try {
    return await calls.names(folder);
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw thrown;
  }
}

async function mayLive(folder: string, name: string, nowMs: number, calls: PathCalls): Promise<boolean> {
  const hasEnded = writerHasEnded(name);
  if (hasEnded !== undefined) return !hasEnded;
  try {
    return nowMs - (await calls.modifiedAtMs(join(folder, name))) < LEFT_BY_OTHER_HOST_MS;
  } catch {
    return false; // it has just gone
  }
}

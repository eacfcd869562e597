import { createHash, randomBytes } from "node:crypto";
import { readFileSync, readlinkSync } from "node:fs";
import { readdir, rm, stat } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";

/** A name for one open backend: `host-pid-starttime-random`. No other process can choose it, and whoever finds what it left behind can
 * tell whether it still lives. The host part tells apart hosts, boots and pid namespaces, so that a pid is only ever looked up where it means something. */
export function newWriterName(): string {
  const start = processStartTime(process.pid) ?? "0";
  return `${hostPart()}-${process.pid}-${start}-${randomBytes(6).toString("hex")}`;
}

const WRITER = /^(.+)-(\d+)-(\d+)-[0-9a-f]{12}$/;
const LEFT_BY_OTHER_HOST_MS = 60 * 60 * 1000;

/** Names of the other writers of a namespace that live, or may: those of other hosts count as living for an hour after their last sign. */
export async function livingWriters(folder: string, own: string, nowMs: number): Promise<string[]> {
  const names = await writerNames(folder);
  const living: string[] = [];
  for (const name of names) if (name !== own && (await mayLive(folder, name, nowMs))) living.push(name);
  return living;
}

/** Removes the folders, and the files in them, of writers that are gone. Returns how many. */
export async function removeDeadWriters(folder: string, own: string, nowMs: number): Promise<number> {
  let removed = 0;
  for (const name of await writerNames(folder)) {
    if (name === own || (await mayLive(folder, name, nowMs))) continue;
    if (await removeWriterFolder(join(folder, name))) removed++;
  }
  return removed;
}

/** Of a writer that has ended. False where NFS keeps a file in it that somebody still has open (`.nfs…`): it goes the next time. */
export async function removeWriterFolder(path: string): Promise<boolean> {
  try {
    await rm(path, { recursive: true, force: true });
    return true;
  } catch (thrown) {
    if (!["ENOTEMPTY", "EBUSY"].includes((thrown as NodeJS.ErrnoException).code ?? "")) throw thrown;
    return false;
  }
}

async function writerNames(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw thrown;
  }
}

/** Whether the writer's process has ended; undefined where that cannot be known: it is of another host, or of another pid namespace. */
export function writerHasEnded(name: string): boolean | undefined {
  const parts = WRITER.exec(name);
  return parts?.[1] === hostPart() ? processStartTime(Number(parts[2])) !== parts[3] : undefined;
}

async function mayLive(folder: string, name: string, nowMs: number): Promise<boolean> {
  const hasEnded = writerHasEnded(name);
  if (hasEnded !== undefined) return !hasEnded;
  try {
    return nowMs - (await stat(join(folder, name))).mtimeMs < LEFT_BY_OTHER_HOST_MS;
  } catch {
    return false; // it has just gone
  }
}

let cachedHostPart: string | undefined;

function hostPart(): string {
  if (cachedHostPart === undefined) {
    const place = createHash("sha256");
    place.update(readOr("/proc/sys/kernel/random/boot_id"));
    try {
      place.update(readlinkSync("/proc/self/ns/pid"));
    } catch {} // no pid namespaces here: the boot alone tells
    const host =
      hostname()
        .replace(/[^A-Za-z0-9.]/g, ".")
        .slice(0, 16) || "host";
    cachedHostPart = `${host}.${place.digest("hex").slice(0, 8)}`;
  }
  return cachedHostPart;
}

/** Field 22 of /proc/PID/stat: clock ticks from boot to the process's start. Tells a process from a later one with its pid. */
function processStartTime(pid: number): string | undefined {
  const text = readOr(`/proc/${pid}/stat`);
  const afterName = text.slice(text.lastIndexOf(")") + 2); // the name may hold spaces and parentheses
  return afterName.split(" ")[19];
}

function readOr(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

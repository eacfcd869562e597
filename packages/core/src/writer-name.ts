import { createHash, randomBytes } from "node:crypto";
import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";

/** A name for one open backend: `host-pid-starttime-random`. No other process can choose it, and whoever finds what it left behind can
 * tell whether it still lives. The host part tells apart hosts, boots and pid namespaces, so that a pid is only ever looked up where it means something. */
export function newWriterName(): string {
  const start = processStartTime(process.pid) ?? UNKNOWN_START;
  return `${hostPart()}-${process.pid}-${start}-${randomBytes(6).toString("hex")}`;
}

const WRITER = /^(.+)-(\d+)-(\d+)-[0-9a-f]{12}$/;
/** In place of a start time where the system does not tell: nobody can know then whether a process has ended. */
const UNKNOWN_START = "0";

/** Whether the writer's process has ended; undefined where that cannot be known: it is of another host, or of another pid namespace. */
export function writerHasEnded(name: string): boolean | undefined {
  const parts = WRITER.exec(name);
  if (parts?.[1] !== hostPart() || parts[3] === UNKNOWN_START) return undefined;
  return processStartTime(Number(parts[2])) !== parts[3];
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

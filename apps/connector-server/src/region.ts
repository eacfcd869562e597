import { close, constants, fstat, open } from "node:fs";
import { isAbsolute } from "node:path";
import { promisify } from "node:util";
import { KvferryError, type Region, toKvferryError } from "@kvferry/core";
import { closeFd, mapRegionFd } from "@kvferry/native";
import type { HelloMessage } from "@kvferry/protocol";

const OFFSET_MULTIPLE_BYTES = 4096;

const openFile = promisify(open);
const statFile = promisify(fstat);

/** A client's region, mapped here. */
export interface ClientRegion extends Region {
  /** Unmaps. No I/O of the region may be under way. */
  close(): void;
}

/** What HELLO says about region, fragment and slots must fit together.
 * @throws KvferryError INVALID_ARGUMENT with `context.field`. */
export function checkRegion(hello: HelloMessage): void {
  const [{ bytes }] = hello.regions;
  const [fragment] = hello.fragments;
  if (fragment.bytes !== hello.blockBytes) {
    throw invalid("fragments[0].bytes", `is ${fragment.bytes}, a block has ${hello.blockBytes}`);
  }
  if (fragment.stride < fragment.bytes) {
    throw invalid("fragments[0].stride", `is ${fragment.stride}, less than a block's ${fragment.bytes}`);
  }
  if (fragment.offset % OFFSET_MULTIPLE_BYTES !== 0) {
    throw invalid("fragments[0].offset", `is ${fragment.offset}, no multiple of ${OFFSET_MULTIPLE_BYTES}`);
  }
  const end = fragment.offset + hello.slots * fragment.stride;
  if (!(end <= bytes)) throw invalid("slots", `end at byte ${end}, the region has ${bytes}`);
}

/** Maps the region: by the descriptor that came with HELLO (which this takes over), or by its path.
 * @throws KvferryError INVALID_ARGUMENT, PERMISSION … with `context.field`. */
export async function mapClientRegion(hello: HelloMessage, passedFd: number | undefined): Promise<ClientRegion> {
  const [fragment] = hello.fragments;
  const fd = passedFd ?? (await openRegionPath(hello));
  try {
    const { size } = await statFile(fd);
    if (size < hello.regions[0].bytes) {
      throw invalid("regions[0].bytes", `is ${hello.regions[0].bytes}, the region's file has ${size}`);
    }
  } catch (thrown) {
    closeFd(fd);
    throw toKvferryError(thrown, "hello", { field: "regions[0]" });
  }
  // From here on the descriptor is the mapping's.
  try {
    return mapRegionFd(fd, { rows: hello.slots, rowBytes: fragment.stride, offset: fragment.offset });
  } catch (thrown) {
    throw toKvferryError(thrown, "hello");
  }
}

async function openRegionPath({ regions: [{ path }] }: HelloMessage): Promise<number> {
  if (path === undefined) {
    throw invalid("regions[0].path", "is missing, and no descriptor came with the message");
  }
  if (!isAbsolute(path) || path.includes("\0")) throw invalid("regions[0].path", "must be an absolute path");
  // Not through a link and not waiting for whoever has the other end of a pipe. O_CLOEXEC is what Node always adds.
  const flags = constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  let fd: number;
  try {
    fd = await openFile(path, flags);
  } catch (thrown) {
    const error = toKvferryError(thrown, "hello");
    // ENOENT, EISDIR, ELOOP …: the path is wrong, not this server
    const code = error.code === "INTERNAL" ? "INVALID_ARGUMENT" : error.code;
    throw new KvferryError(code, `cannot open the region: ${error.message}`, {
      operation: "hello",
      context: { field: "regions[0].path" },
      cause: thrown,
    });
  }
  const isFile = await statFile(fd).then((stat) => stat.isFile());
  if (isFile) return fd;
  await promisify(close)(fd);
  throw invalid("regions[0].path", "must be a regular file");
}

function invalid(field: string, reason: string): KvferryError {
  return new KvferryError("INVALID_ARGUMENT", `'${field}' ${reason}`, { operation: "hello", context: { field } });
}

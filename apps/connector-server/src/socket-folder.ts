import { lstat, mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { KvferryError, toKvferryError } from "@kvferry/core";

/** sockaddr_un has 108 bytes, with the zero at the end. */
const SOCKET_PATH_BYTES_MAX = 107;

/** Makes the folder of the default socket (0700) and refuses one that somebody else could write to: in /tmp, anybody may have made it first. */
export async function prepareSocketFolder(socket: string, isDefault: boolean): Promise<void> {
  if (Buffer.byteLength(socket) > SOCKET_PATH_BYTES_MAX) {
    throw invalid(
      socket,
      `has ${Buffer.byteLength(socket)} bytes; a socket's path has at most ${SOCKET_PATH_BYTES_MAX}`,
    );
  }
  const folder = dirname(socket);
  if (!isDefault) {
    const stat = await lstat(folder).catch(() => undefined);
    if (stat === undefined) await makeFolder(folder);
    return;
  }
  await makeFolder(folder);
  const stat = await lstat(folder);
  const uid = process.getuid?.() ?? 0;
  if (!stat.isDirectory() || stat.uid !== uid) {
    throw new KvferryError(
      "PERMISSION",
      `${folder} is not a folder of uid ${uid}; someone else may have made it. Give another socket with --socket`,
      {
        operation: "listen",
        context: { path: folder },
      },
    );
  }
  if ((stat.mode & 0o022) !== 0) {
    throw new KvferryError(
      "PERMISSION",
      `others may write to ${folder}: chmod 700 it, or give another socket with --socket`,
      {
        operation: "listen",
        context: { path: folder },
      },
    );
  }
}

async function makeFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 });
  } catch (thrown) {
    const error = toKvferryError(thrown, "listen");
    throw new KvferryError(error.code, `cannot make the socket's folder ${folder}: ${error.message}`, {
      operation: "listen",
      context: { path: folder },
      cause: thrown,
    });
  }
}

function invalid(socket: string, reason: string): KvferryError {
  return new KvferryError("CONFIG_INVALID", `the socket's path '${socket}' ${reason}`, {
    operation: "listen",
    context: { field: "socket" },
  });
}

import { statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { fileSystemOf, KvferryError, toKvferryError } from "@kvferry/core";

export type ParallelFileSystem = "lustre" | "gpfs";

/** What statfs(2) says of the file system that a path is on, or will be once its folders are made. */
export interface FoundFileSystem {
  readonly kind: ParallelFileSystem;
  /** f_bsize: bytes that the file system likes to move at a time. */
  readonly blockBytes: number;
}

/** Finds out which of the two it is.
 * @throws KvferryError UNSUPPORTED for any other file system, with what to do; or what statfs says. */
export async function requireParallelFs(path: string): Promise<FoundFileSystem> {
  const { type, bsize } = await statfsOfNearest(path);
  const { name } = fileSystemOf(type);
  if (name === "lustre" || name === "gpfs") return { kind: name, blockBytes: bsize };
  throw new KvferryError(
    "UNSUPPORTED",
    `${path} is on ${name}, not on Lustre or Storage Scale: use the backend posix, or check that the file system is mounted`,
    { operation: "open", context: { field: "root", path, fileSystem: name } },
  );
}

async function statfsOfNearest(path: string): Promise<{ readonly type: number; readonly bsize: number }> {
  for (let at = path; ; at = dirname(at)) {
    try {
      return await statfs(at);
    } catch (thrown) {
      if ((thrown as NodeJS.ErrnoException).code !== "ENOENT" || at === dirname(at))
        throw toKvferryError(thrown, "open", { path: at });
    }
  }
}

import { access, constants, mkdir } from "node:fs/promises";
import { KvferryError, toKvferryError } from "@kvferry/core";
import type { FolderCalls } from "@kvferry/native";

const { R_OK, W_OK, X_OK } = constants;

/** Ms that a folder that may hang has at the start. */
const PREPARE_MS = 30_000;

/** Makes the folder of a tier, and says early if it cannot be used. `calls`: of an engine that can give up a file system that hangs; else Node's.
 * @throws KvferryError PERMISSION … with `context.field`. */
export async function prepareFolder(path: string, field: string, calls?: FolderCalls): Promise<void> {
  try {
    if (calls === undefined) {
      await mkdir(path, { recursive: true, mode: 0o700 });
      await access(path, R_OK | W_OK | X_OK);
    } else {
      const signal = AbortSignal.timeout(PREPARE_MS);
      await calls.makeFolders(path, 0o700, signal);
      await calls.access(path, R_OK | W_OK | X_OK, signal);
    }
  } catch (thrown) {
    const error = toKvferryError(thrown, "open");
    throw new KvferryError(error.code, `the storage folder ${path} cannot be used: ${error.message}`, {
      operation: "open",
      context: { field, path },
      cause: thrown,
    });
  }
}

/** A way to ask why a folder cannot be used. One look at a time: however often it is asked, a file system that hangs holds one thread. */
export function folderProbe(path: string, calls?: FolderCalls): () => Promise<string | undefined> {
  const look = () => (calls === undefined ? access(path, W_OK | X_OK) : calls.access(path, W_OK | X_OK));
  let looking: Promise<string | undefined> | undefined;
  return () => {
    looking ??= look()
      .then(
        () => undefined,
        (error: Error) => `${path} cannot be used: ${error.message}`,
      )
      .finally(() => {
        looking = undefined;
      });
    return looking;
  };
}

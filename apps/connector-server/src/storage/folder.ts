import { access, constants, mkdir } from "node:fs/promises";
import { KvferryError, toKvferryError } from "@kvferry/core";

/** Makes the folder of a tier, and says early if it cannot be used.
 * @throws KvferryError PERMISSION … with `context.field`. */
export async function prepareFolder(path: string, field: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true, mode: 0o700 });
    await access(path, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (thrown) {
    const error = toKvferryError(thrown, "open");
    throw new KvferryError(error.code, `the storage folder ${path} cannot be used: ${error.message}`, {
      operation: "open",
      context: { field, path },
      cause: thrown,
    });
  }
}

export function folderProblem(path: string): Promise<string | undefined> {
  return access(path, constants.W_OK | constants.X_OK).then(
    () => undefined,
    (error: Error) => `${path} cannot be used: ${error.message}`,
  );
}

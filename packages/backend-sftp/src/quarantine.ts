import { each } from "./at-once.js";
import { isMissing } from "./errors.js";
import { entriesOf, FOLDER_REQUESTS_MAX } from "./folders.js";
import type { BlockPaths } from "./paths.js";
import type { SftpSession } from "./session.js";

let count = 0;

/** Moves a damaged block out of the way, so that it can be stored anew and someone can look at what happened. */
export async function quarantineBlock(
  session: SftpSession,
  paths: BlockPaths,
  { key, nowMs, filesMax }: { readonly key: Uint8Array; readonly nowMs: number; readonly filesMax: number },
): Promise<void> {
  const path = paths.block(key);
  try {
    if (filesMax === 0) await session.removeFile(path);
    else await session.rename(path, paths.quarantined(key, nowMs, count++));
  } catch (thrown) {
    if (isMissing(thrown)) return; // another reader was quicker
    throw thrown;
  }
  if (filesMax > 0) await keepNewest(session, paths.quarantine, filesMax);
}

async function keepNewest(session: SftpSession, folder: string, filesMax: number): Promise<void> {
  const entries = await entriesOf(session, folder);
  const old = entries.toSorted((a, b) => (b.changedAtMs ?? 0) - (a.changedAtMs ?? 0)).slice(filesMax);
  const remove = (name: string): Promise<void> => session.removeFile(`${folder}/${name}`).catch(() => {});
  await each(old.length, FOLDER_REQUESTS_MAX, (i) => remove((old[i] as { readonly name: string }).name));
}

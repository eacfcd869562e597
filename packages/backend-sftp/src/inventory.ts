import { type ScanEntry, untilAborted } from "@kvferry/core";
import { entriesOf } from "./folders.js";
import { type BlockPaths, LEAVES } from "./paths.js";
import type { SftpSession } from "./session.js";

/** Folders that are listed at once: a distant host takes as long for sixteen as for one. */
const FOLDERS_AT_ONCE = 16;

/** Every block of a namespace, a folder at a time.
 * @throws the signal's reason as soon as it is aborted. */
export async function* listBlocks(
  session: SftpSession,
  paths: BlockPaths,
  signal?: AbortSignal,
): AsyncGenerator<ScanEntry[]> {
  for (let at = 0; at < LEAVES.length; at += FOLDERS_AT_ONCE) {
    const leaves = LEAVES.slice(at, at + FOLDERS_AT_ONCE);
    const folders = await untilAborted(Promise.all(leaves.map((leaf) => blocksIn(session, paths, leaf))), signal);
    for (const entries of folders) if (entries.length > 0) yield entries;
  }
}

async function blocksIn(session: SftpSession, paths: BlockPaths, leaf: string): Promise<ScanEntry[]> {
  const found: ScanEntry[] = [];
  for (const { name, bytes = 0, changedAtMs = 0, usedAtMs = 0 } of await entriesOf(
    session,
    `${paths.blocks}/${leaf}`,
  )) {
    const key = paths.keyOf(leaf, name);
    if (key === undefined) continue;
    found.push({ key, bytes, storedAtMs: changedAtMs, usedAtMs: Math.max(changedAtMs, usedAtMs) });
  }
  return found;
}

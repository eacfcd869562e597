import { type AuthorContext, formatNamespaceRecord, KvferryError, writerHasEnded } from "@kvferry/core";
import { each } from "./at-once.js";
import { isFailure, isMissing, toSftpError } from "./errors.js";
import { type BlockPaths, LEAVES } from "./paths.js";
import type { FolderEntry, Handle, SftpSession } from "./session.js";
import { fileBytes } from "./store-block.js";

/** Requests on their way at once while folders are made or looked through. */
export const FOLDER_REQUESTS_MAX = 64;
/** Names of one folder that are taken: 256 folders of so many are more blocks than any host holds, and a host that never ends is no host. */
const NAMES_MAX = 2 ** 21;

/** Makes what a namespace needs and is not there: its folders and, in `ownFolder`, those of this writer.
 * @throws KvferryError CONFIG_INVALID for a root that cannot be made because its parent is not there; PERMISSION. */
export async function makeFolders(session: SftpSession, paths: BlockPaths, ownFolder: string): Promise<void> {
  await ensureRoot(session, paths.root);
  await ensureFolder(session, paths.namespace);
  for (const path of [paths.blocks, paths.writers, paths.quarantine, ownFolder]) await ensureFolder(session, path);
  const there = new Set((await entriesOf(session, paths.blocks)).map(({ name }) => name));
  const missing = LEAVES.filter((leaf) => !there.has(leaf));
  await each(missing.length, FOLDER_REQUESTS_MAX, (i) => makeFolder(session, `${paths.blocks}/${missing[i]}`));
}

async function ensureRoot(session: SftpSession, root: string): Promise<void> {
  try {
    await ensureFolder(session, root);
  } catch (thrown) {
    if (!(thrown instanceof KvferryError) || thrown.code !== "STALE") throw thrown;
    const words = `'root' is ${root}, but the host has no folder in which it could be made: correct it, or make its parent`;
    throw new KvferryError("CONFIG_INVALID", `sftp backend: ${words}`, {
      operation: "open",
      context: { field: "root", path: root },
    });
  }
}

async function ensureFolder(session: SftpSession, path: string): Promise<void> {
  try {
    if (!(await isFolder(session, path))) await makeFolder(session, path);
  } catch (thrown) {
    throw toSftpError(thrown, "open", { path });
  }
}

async function makeFolder(session: SftpSession, path: string): Promise<void> {
  try {
    await session.makeFolder(path);
  } catch (thrown) {
    // somebody else may have made it in between
    if (!isFailure(thrown) || !(await isFolder(session, path))) throw toSftpError(thrown, "open", { path });
  }
}

async function isFolder(session: SftpSession, path: string): Promise<boolean> {
  const found = await session.stat(path);
  if (found?.isFolder === false) {
    throw new KvferryError("CONFIG_INVALID", `sftp: ${path} is no folder`, { context: { path } });
  }
  return found !== undefined;
}

/** Everything in a folder; nothing for a folder that is not there. */
export async function entriesOf(session: SftpSession, path: string): Promise<FolderEntry[]> {
  let handle: Handle;
  try {
    handle = await session.openFolder(path);
  } catch (thrown) {
    if (isMissing(thrown)) return [];
    throw thrown;
  }
  const entries: FolderEntry[] = [];
  try {
    for (;;) {
      const page = await session.list(handle);
      if (page === undefined) return entries;
      for (const entry of page) entries.push(entry);
      if (entries.length > NAMES_MAX) {
        throw new KvferryError("PROTOCOL", `sftp: ${path} has no end`, { context: { path } });
      }
    }
  } finally {
    void session.close(handle).catch(() => {});
  }
}

/** Leaves the identity of the bytes where people and tools find it. */
export async function describeNamespace(
  session: SftpSession,
  paths: BlockPaths,
  ownFolder: string,
  context: AuthorContext,
): Promise<void> {
  if (((await fileBytes(session, paths.description)) ?? 0) > 0) return;
  const text = Buffer.from(formatNamespaceRecord(context));
  const temporary = `${ownFolder}/namespace.json`;
  const handle = await session.create(temporary);
  for (let at = 0; at < text.length; at += session.requestBytes) {
    const piece = text.subarray(at, at + session.requestBytes);
    await session.write(handle, at, piece.length, (target) => target.set(piece));
  }
  await session.close(handle);
  try {
    await session.rename(temporary, paths.description);
  } catch (thrown) {
    await session.removeFile(temporary).catch(() => {});
    // without posix-rename a second writer is refused: the first has written the same
    if (!isFailure(thrown) || (await fileBytes(session, paths.description)) === undefined) throw thrown;
  }
}

/** Removes what writers that are gone have left: those of processes of this host that have ended, and folders in which nothing has happened for so
 * long, by the server's own clock. */
export async function sweepWriters(
  session: SftpSession,
  paths: BlockPaths,
  ownFolder: string,
  leftoverMs: number,
): Promise<number> {
  const nowMs = (await session.stat(ownFolder))?.changedAtMs;
  if (nowMs === undefined) return 0;
  let swept = 0;
  for (const { name, isFolder: is, changedAtMs } of await entriesOf(session, paths.writers)) {
    const path = `${paths.writers}/${name}`;
    if (is === false || path === ownFolder) continue;
    const files = await entriesOf(session, path);
    const newestMs = Math.max(changedAtMs ?? nowMs, ...files.map((file) => file.changedAtMs ?? nowMs));
    if (writerHasEnded(name) !== true && nowMs - newestMs < leftoverMs) continue;
    await removeWriter(session, path, files);
    swept++;
  }
  return swept;
}

/** Removes a writer's folder with what is in it. */
export async function removeWriter(session: SftpSession, path: string, files: readonly FolderEntry[]): Promise<void> {
  const remove = (name: string): Promise<void> => session.removeFile(`${path}/${name}`).catch(() => {});
  await each(files.length, FOLDER_REQUESTS_MAX, (i) => remove((files[i] as FolderEntry).name));
  await session.removeFolder(path).catch(() => {}); // somebody else sweeps, too
}

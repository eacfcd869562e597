import { mkdir, readdir, rename, rm, stat, statfs, utimes, writeFile } from "node:fs/promises";
import type { FolderCalls } from "@kvferry/native";

/** What a backend asks of paths, besides moving blocks. Rejects with an error whose `code` is the errno's name, or one of core's codes. */
export interface PathCalls {
  names(folder: string): Promise<readonly string[]>;
  /** `mustBeNew`: EEXIST where there is a file. */
  write(path: string, text: string, mode: number, mustBeNew: boolean): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  /** With all that is in it; what is not there is no error. */
  remove(path: string): Promise<void>;
  /** `mkdir -p`. */
  makeFolders(path: string, mode: number): Promise<void>;
  modifiedAtMs(path: string): Promise<number>;
  /** The magic of statfs(2). */
  fileSystem(path: string): Promise<number>;
  /** Sets the modification time. */
  touch(path: string, ms: number): Promise<void>;
}

/** On Node's own four threads. */
export const nodeCalls: PathCalls = {
  names: (folder) => readdir(folder),
  write: (path, text, mode, mustBeNew) => writeFile(path, text, { mode, flag: mustBeNew ? "wx" : "w" }),
  rename,
  remove: (path) => rm(path, { recursive: true, force: true }),
  async makeFolders(path, mode) {
    await mkdir(path, { recursive: true, mode });
  },
  modifiedAtMs: async (path) => (await stat(path)).mtimeMs,
  fileSystem: async (path) => (await statfs(path)).type,
  touch: (path, ms) => utimes(path, ms / 1000, ms / 1000),
};

/** On an engine's threads, until `signal` aborts: of a file system that hangs Node notices nothing. */
export function engineCalls(folders: FolderCalls, signal: AbortSignal): PathCalls {
  return {
    names: (folder) => named(folders.names(folder, signal)),
    write: (path, text, mode, mustBeNew) => named(folders.write(path, Buffer.from(text), mode, mustBeNew, signal)),
    rename: (from, to) => named(folders.rename(from, to, signal)),
    remove: (path) => named(folders.remove(path, signal)),
    makeFolders: (path, mode) => named(folders.makeFolders(path, mode, signal)),
    modifiedAtMs: async (path) => (await named(folders.facts(path, signal))).modifiedAtMs,
    fileSystem: (path) => named(folders.fileSystem(path, signal)),
    touch: (path, ms) => named(folders.touch(path, Math.round(ms), signal)),
  };
}

/** Gives errors the code that Node's would have. */
async function named<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (thrown) {
    const { message, context } = thrown as { message: string; context?: { path?: string; errno?: string } };
    if (context?.errno === undefined) throw thrown;
    throw Object.assign(new Error(message, { cause: thrown }), { code: context.errno, path: context.path });
  }
}

import { mkdir, open, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import type { CapacityFiles } from "@kvferry/core";

/** Most files are far shorter. */
const READ_BYTES = 16 * 1024;
/** Node has no name for it. */
const ESTALE = -116;

export interface CapacityFilesOptions {
  readonly folder: string;
  /** Tells temporary names of this process from those of others. */
  readonly writer: string;
  readonly fileMode: number;
  readonly folderMode: number;
}

/** Makes the folder if it is missing. */
export async function openCapacityFiles(options: CapacityFilesOptions): Promise<CapacityFiles> {
  const { folder, writer, fileMode, folderMode } = options;
  await mkdir(folder, { recursive: true, mode: folderMode });
  const path = (name: string): string => join(folder, name);

  return {
    list: () => readdir(folder),
    read: (name, offset, bytesMax) => readPart(path(name), offset, bytesMax),
    async replace(name, bytes) {
      const unfinished = path(`${name}.${writer}.tmp`);
      await writeAt(unfinished, "w", 0, bytes, fileMode);
      await rename(unfinished, path(name));
    },
    async create(name, bytes) {
      try {
        await writeAt(path(name), "wx", 0, bytes, fileMode);
        return true;
      } catch (thrown) {
        if (hasCode(thrown, "EEXIST")) return false;
        throw thrown;
      }
    },
    async write(name, offset, bytes) {
      try {
        await writeAt(path(name), "r+", offset, bytes, fileMode);
      } catch (thrown) {
        if (!hasCode(thrown, "ENOENT")) throw thrown;
        await writeAt(path(name), "w", offset, bytes, fileMode);
      }
    },
    remove: (name) => rm(path(name), { force: true }),
  };
}

async function readPart(path: string, offset: number, bytesMax: number, tries = 3): Promise<Uint8Array | undefined> {
  try {
    const file = await open(path, "r");
    try {
      let bytes = Buffer.allocUnsafe(Math.min(bytesMax, READ_BYTES));
      let length = 0;
      for (;;) {
        const { bytesRead } = await file.read(bytes, length, bytes.length - length, offset + length);
        length += bytesRead;
        if (bytesRead === 0 || length === bytesMax) return bytes.subarray(0, length);
        if (length === bytes.length) {
          const longer = Buffer.allocUnsafe(Math.min(bytesMax, length * 4));
          bytes.copy(longer);
          bytes = longer;
        }
      }
    } finally {
      await file.close();
    }
  } catch (thrown) {
    if (hasCode(thrown, "ENOENT")) return undefined;
    // another host of a network file system has replaced it since it was opened: the name has the new one
    if ((thrown as NodeJS.ErrnoException).errno === ESTALE && tries > 1) {
      return readPart(path, offset, bytesMax, tries - 1);
    }
    throw thrown;
  }
}

async function writeAt(path: string, flags: string, offset: number, bytes: Uint8Array, mode: number): Promise<void> {
  const file = await open(path, flags, mode);
  try {
    for (let done = 0; done < bytes.length; ) {
      done += (await file.write(bytes, done, bytes.length - done, offset + done)).bytesWritten;
    }
  } finally {
    await file.close();
  }
}

function hasCode(thrown: unknown, code: string): boolean {
  return (thrown as NodeJS.ErrnoException).code === code;
}

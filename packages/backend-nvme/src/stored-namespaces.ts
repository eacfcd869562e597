import { randomBytes } from "node:crypto";
import { mkdir, readdir, readFile, rename, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { formatNamespaceRecord, type NamespaceRecord, parseNamespaceRecord } from "@kvferry/core";

/** Beside the segments: who the digests in them are. A block device has no place for it, only its own pages. */
const FOLDER = "namespaces";

/** Leaves the identity of a namespace where people and tools find it. */
export async function describeNamespace(
  { path, fileMode: mode, folderMode }: { path: string; fileMode: number; folderMode: number },
  record: NamespaceRecord,
): Promise<void> {
  if (!(await stat(path)).isDirectory()) return;
  const folder = join(path, FOLDER);
  await mkdir(folder, { recursive: true, mode: folderMode });
  const name = `${record.namespace.digestHex}.json`;
  const unfinished = join(folder, `.${name}.${randomBytes(6).toString("hex")}`);
  await writeFile(unfinished, formatNamespaceRecord(record), { mode, flag: "wx" });
  await rename(unfinished, join(folder, name));
}

/** Every namespace that a drive in a folder was opened for. What has no record that can be read is left out. */
export async function storedNamespaces(path: string): Promise<NamespaceRecord[]> {
  const folder = join(path, FOLDER);
  const names = await readdir(folder).catch(() => [] as string[]);
  const found: NamespaceRecord[] = [];
  for (const name of names.filter((each) => /^[0-9a-f]{64}\.json$/.test(each))) {
    const record = await readRecord(join(folder, name));
    if (record !== undefined && `${record.namespace.digestHex}.json` === name) found.push(record);
  }
  return found;
}

async function readRecord(path: string): Promise<NamespaceRecord | undefined> {
  try {
    return parseNamespaceRecord(await readFile(path, "utf8"));
  } catch {
    return undefined; // of a later version, or no record at all
  }
}

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { type NamespaceRecord, parseNamespaceRecord, toKvferryError } from "@kvferry/core";
import type { LayoutName } from "@kvferry/native";
import type { VllmFsNames } from "./config.js";

/** A namespace that has a folder below a root, whether anyone serves it or not. */
export interface StoredNamespace extends NamespaceRecord {
  /** In the layout vllm-fs: where it lies. */
  readonly vllmFs: VllmFsNames | undefined;
}

/** Every namespace below a root. Folders without a record that can be read are left out.
 * @throws KvferryError PERMISSION, IO … if the root cannot be listed. */
export async function storedNamespaces(root: string, layout: LayoutName = "kvferry"): Promise<StoredNamespace[]> {
  const found: StoredNamespace[] = [];
  for (const folder of await foldersIn(root)) {
    if (layout === "kvferry") found.push(...(await ownNamespace(root, folder)));
    else found.push(...(await vllmFsNamespaces(root, folder)));
  }
  return found;
}

async function ownNamespace(root: string, folder: string): Promise<StoredNamespace[]> {
  if (!/^[0-9a-f]{64}$/.test(folder)) return [];
  const record = await readRecord(join(root, folder, "namespace.json"));
  return record?.namespace.digestHex === folder ? [{ ...record, vllmFs: undefined }] : [];
}

async function vllmFsNamespaces(root: string, folder: string): Promise<StoredNamespace[]> {
  const match = /^(.+)_r(\d{1,9})$/.exec(folder);
  if (match === null) return [];
  const [base, rank] = [match[1] as string, Number(match[2])];
  const own = join(root, folder, ".kvferry");
  const names = (await namesIn(own)).filter((name) => /^namespace-[0-9a-f]{64}\.json$/.test(name));
  const records = await Promise.all(names.map((name) => readRecord(join(own, name))));
  const config = await readFile(join(root, base, "config.json"), "utf8").catch(() => "{}");
  return records.flatMap((record) => (record === undefined ? [] : [{ ...record, vllmFs: { base, rank, config } }]));
}

async function readRecord(path: string): Promise<NamespaceRecord | undefined> {
  try {
    return parseNamespaceRecord(await readFile(path, "utf8"));
  } catch {
    return undefined; // unfinished, of a later version, or no record at all
  }
}

async function foldersIn(root: string): Promise<string[]> {
  try {
    const entries = await readdir(root, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw toKvferryError(thrown, "scan", { path: root });
  }
}

async function namesIn(folder: string): Promise<string[]> {
  return readdir(folder).catch(() => []);
}

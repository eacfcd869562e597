import { mkdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type AuthorContext, formatNamespaceRecord, toKvferryError } from "@kvferry/core";
import type { ResolvedPosixConfig } from "./config.js";
import type { Folders } from "./layout.js";

/** Leaves the identity where people and tools find it, and vLLM its own. */
export async function describe(
  folders: Folders,
  config: ResolvedPosixConfig,
  context: AuthorContext,
  writer: string,
): Promise<void> {
  const { namespace } = context;
  const { vllmFs, layout, fileMode: mode, folderMode, root } = config;
  const name = layout === "vllm-fs" ? `namespace-${namespace.digestHex}.json` : "namespace.json";
  const text = formatNamespaceRecord(context);
  await writeWhole(join(folders.namespace, name), text, join(folders.writers, writer, name), mode);
  if (layout !== "vllm-fs" || vllmFs === undefined) return;
  const vllmFolder = join(root, vllmFs.base);
  await makeFolder(vllmFolder, folderMode);
  await writeFile(join(vllmFolder, "config.json"), vllmFs.config, { flag: "wx", mode }).catch(
    (thrown: NodeJS.ErrnoException) => {
      if (thrown.code !== "EEXIST") throw toKvferryError(thrown, "open");
    },
  );
}

export async function makeFolder(path: string, mode: number): Promise<void> {
  try {
    await mkdir(path, { recursive: true, mode });
  } catch (thrown) {
    throw toKvferryError(thrown, "open", { path });
  }
}

async function writeWhole(path: string, text: string, unfinished: string, mode: number): Promise<void> {
  try {
    await writeFile(unfinished, text, { mode });
    await rename(unfinished, path);
  } catch (thrown) {
    await rm(unfinished, { force: true });
    throw toKvferryError(thrown, "open", { path });
  }
}

import { join } from "node:path";
import { type AuthorContext, formatNamespaceRecord, toKvferryError } from "@kvferry/core";
import type { ResolvedPosixConfig } from "./config.js";
import type { Folders } from "./layout.js";
import type { PathCalls } from "./path-calls.js";

/** Leaves the identity where people and tools find it, and vLLM its own. */
export async function describe(
  folders: Folders,
  config: ResolvedPosixConfig,
  context: AuthorContext,
  writer: string,
  calls: PathCalls,
): Promise<void> {
  const { namespace } = context;
  const { vllmFs, layout, fileMode: mode, folderMode, root } = config;
  const name = layout === "vllm-fs" ? `namespace-${namespace.digestHex}.json` : "namespace.json";
  const text = formatNamespaceRecord(context);
  await writeWhole(join(folders.namespace, name), text, join(folders.writers, writer, name), mode, calls);
  if (layout !== "vllm-fs" || vllmFs === undefined) return;
  const vllmFolder = join(root, vllmFs.base);
  await makeFolder(vllmFolder, folderMode, calls);
  await calls
    .write(join(vllmFolder, "config.json"), vllmFs.config, mode, true)
    .catch((thrown: NodeJS.ErrnoException) => {
      if (thrown.code !== "EEXIST") throw toKvferryError(thrown, "open");
    });
}

export async function makeFolder(path: string, mode: number, calls: PathCalls): Promise<void> {
  try {
    await calls.makeFolders(path, mode);
  } catch (thrown) {
    throw toKvferryError(thrown, "open", { path });
  }
}

async function writeWhole(
  path: string,
  text: string,
  unfinished: string,
  mode: number,
  calls: PathCalls,
): Promise<void> {
  try {
    await calls.write(unfinished, text, mode, false);
    await calls.rename(unfinished, path);
  } catch (thrown) {
    await calls.remove(unfinished).catch(() => {}); // the first error is the one that explains
    throw toKvferryError(thrown, "open", { path });
  }
}

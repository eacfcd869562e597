import { basename, join } from "node:path";
import { GROUP_BYTES, keyGroup, keyHex, type Namespace } from "@kvferry/core";
import type { LayoutName } from "@kvferry/native";
import type { PosixConfig, ResolvedPosixConfig } from "./config.js";
import { nodeCalls, type PathCalls } from "./path-calls.js";

/** The folders of one namespace below a root; docs/block-format.md, "Paths". */
export interface Folders {
  readonly namespace: string;
  readonly blocks: string;
  /** One folder a writer: its named temporary files, and the sign that it is there. */
  readonly writers: string;
  readonly quarantine: string;
}

/** The settings that decide where a namespace lies. */
export type FolderNames = Pick<PosixConfig, "root" | "layout" | "vllmFs">;

export function foldersOf(config: FolderNames, namespace: Namespace): Folders {
  if (config.layout === "vllm-fs" && config.vllmFs !== undefined) {
    const blocks = join(config.root, `${config.vllmFs.base}_r${config.vllmFs.rank}`);
    const own = join(blocks, ".kvferry");
    return { namespace: own, blocks, writers: join(own, "tmp"), quarantine: join(own, "quarantine") };
  }
  const own = join(config.root, namespace.digestHex);
  return {
    namespace: own,
    blocks: join(own, "blocks"),
    writers: join(own, "tmp"),
    quarantine: join(own, "quarantine"),
  };
}

/** The folder's name among all of a root's, as capacity/ logs it. */
export function folderName(config: ResolvedPosixConfig, namespace: Namespace): string {
  return config.layout === "vllm-fs" ? basename(foldersOf(config, namespace).blocks) : namespace.digestHex;
}

/** Where a block's file is. */
export function blockPath(layout: LayoutName, blocks: string, key: Uint8Array): string {
  const hex = keyHex(key);
  if (layout === "kvferry") return join(blocks, hex.slice(0, 2), `${hex}.kvb`);
  const hash = hex.slice(0, -2 * GROUP_BYTES);
  return join(blocks, hash.slice(0, 3), `${hash.slice(3, 5)}_g${keyGroup(key)}`, `${hash}.bin`);
}

/** A folder that holds blocks, and the key of each name in it. */
export interface LeafFolder {
  readonly path: string;
  /** The key of a file name, or undefined for a file that is no block of this namespace, or not at its place. */
  keyOf(name: string): Uint8Array | undefined;
}

/** Every folder that can hold blocks, in no order. */
export async function* leafFolders(
  layout: LayoutName,
  blocks: string,
  keyBytes: number,
  calls: PathCalls = nodeCalls,
): AsyncGenerator<LeafFolder> {
  if (layout === "kvferry") yield* kvferryLeaves(blocks, keyBytes, calls);
  else yield* vllmFsLeaves(blocks, keyBytes, calls);
}

async function* kvferryLeaves(blocks: string, keyBytes: number, calls: PathCalls): AsyncGenerator<LeafFolder> {
  for (const folder of await foldersNamed(blocks, /^[0-9a-f]{2}$/, calls)) {
    yield {
      path: join(blocks, folder),
      keyOf: (name) => (name.startsWith(folder) ? hexStem(name, ".kvb", keyBytes) : undefined),
    };
  }
}

async function* vllmFsLeaves(blocks: string, keyBytes: number, calls: PathCalls): AsyncGenerator<LeafFolder> {
  for (const outer of await foldersNamed(blocks, /^[0-9a-f]{2,3}$/, calls)) {
    for (const inner of await foldersNamed(join(blocks, outer), /^[0-9a-f]{0,2}_g[0-9]{1,10}$/, calls)) {
      const group = Number(inner.slice(inner.indexOf("_g") + 2));
      if (group > 0xffff_ffff) continue;
      yield {
        path: join(blocks, outer, inner),
        keyOf(name) {
          const hash = hexStem(name, ".bin", keyBytes - GROUP_BYTES);
          if (hash === undefined || name.slice(0, Math.min(3, hash.length * 2)) !== outer) return undefined;
          if (`${name.slice(3, Math.min(5, hash.length * 2))}_g${group}` !== inner) return undefined;
          const key = Buffer.alloc(keyBytes);
          key.set(hash);
          key.writeUInt32BE(group, keyBytes - GROUP_BYTES);
          return key;
        },
      };
    }
  }
}

async function foldersNamed(parent: string, pattern: RegExp, calls: PathCalls): Promise<string[]> {
  try {
    return (await calls.names(parent)).filter((name) => pattern.test(name));
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === "ENOENT") return []; // went away, or was never made
    throw thrown;
  }
}

function hexStem(name: string, suffix: string, bytes: number): Uint8Array | undefined {
  if (name.length !== bytes * 2 + suffix.length || !name.endsWith(suffix)) return undefined;
  const stem = name.slice(0, bytes * 2);
  return /^[0-9a-f]+$/.test(stem) ? Buffer.from(stem, "hex") : undefined;
}

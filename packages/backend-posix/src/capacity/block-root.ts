import { lstat, readdir, readFile, rm, unlink } from "node:fs/promises";
import { join } from "node:path";
import {
  type Amount,
  type BlockFolder,
  type BlockLeaf,
  type BlockRoot,
  type FolderBlocks,
  KEY_BYTES_MIN,
  type KeyBatch,
  keyAt,
  NO_AMOUNT,
  Outcome,
  plusAmount,
  storedBlockBytes,
  writerHasEnded,
} from "@kvferry/core";
import type { FileEngine, FileStore, LayoutName } from "@kvferry/native";
import { blockPath, type LeafFolder, leafFolders } from "../layout.js";
import { livingWriters, removeDeadWriters } from "../writers.js";

/** A file name of a block has 255 bytes at most. */
const KEY_BYTES_MAX = 125;
/** Files that are removed or looked at at once where the data plane does not do it. */
const PARALLEL = 8;

export interface BlockRootOptions {
  /** Absolute. */
  readonly root: string;
  /** Folder for what the data plane tries out when it opens a folder. */
  readonly scratch: string;
  readonly engine: FileEngine;
  readonly writer: string;
  readonly fileMode: number;
  readonly folderMode: number;
  nowMs(): number;
}

/** Every namespace's folder below a root, of both layouts, by what is found there and not by what this process serves. */
export class NativeBlockRoot implements BlockRoot {
  readonly #options: BlockRootOptions;
  readonly #folders: Map<string, NativeBlockFolder> = new Map();

  constructor(options: BlockRootOptions) {
    this.#options = options;
  }

  async folders(): Promise<readonly BlockFolder[]> {
    for (const name of await readdir(this.#options.root)) {
      const layout = layoutOf(name);
      if (layout === undefined || this.#folders.has(name)) continue;
      const own = join(this.#options.root, name, layout === "kvferry" ? "." : ".kvferry");
      const blocks = join(this.#options.root, name, layout === "kvferry" ? "blocks" : ".");
      const facts = (await described(own)) ?? (await guessed(layout, blocks));
      if (facts !== undefined) {
        this.#folders.set(name, new NativeBlockFolder({ ...this.#options, ...facts, name, layout, own, blocks }));
      }
    }
    return [...this.#folders.values()];
  }

  async close(): Promise<void> {
    for (const folder of this.#folders.values()) await folder.close();
    await rm(this.#options.scratch, { recursive: true, force: true });
  }
}

interface FolderFacts {
  readonly keyBytes: number;
  readonly blockBytes: number;
  readonly tenant: string;
}

interface FolderOptions extends BlockRootOptions, FolderFacts {
  readonly name: string;
  readonly layout: LayoutName;
  readonly own: string;
  readonly blocks: string;
}

class NativeBlockFolder implements BlockFolder {
  readonly #options: FolderOptions;
  #store: Promise<FileStore> | undefined;

  constructor(options: FolderOptions) {
    this.#options = options;
  }

  get name(): string {
    return this.#options.name;
  }

  get tenant(): string {
    return this.#options.tenant;
  }

  get keyBytes(): number {
    return this.#options.keyBytes;
  }

  get fileBytes(): number {
    return storedBlockBytes(this.#options.blockBytes);
  }

  async *leaves(): AsyncGenerator<BlockLeaf> {
    const { layout, blocks, keyBytes } = this.#options;
    for await (const leaf of leafFolders(layout, blocks, keyBytes)) yield { list: () => this.#list(leaf) };
  }

  async besides(isMember: (writer: string) => boolean): Promise<Amount> {
    const { own, nowMs } = this.#options;
    const writers = join(own, "tmp");
    const folders = [join(own, "quarantine")];
    await removeDeadWriters(writers, "", nowMs());
    for (const writer of await livingWriters(writers, "", nowMs())) {
      if (!isMember(writer)) folders.push(join(writers, writer));
    }
    let sum = NO_AMOUNT;
    for (const folder of folders) {
      const { bytes } = await (await this.#opened()).listFolder(folder);
      sum = bytes.reduce((total, size) => plusAmount(total, { bytes: size, files: 1 }), sum);
    }
    return sum;
  }

  exists(keys: KeyBatch): Promise<Uint8Array> {
    return forEachKey(keys, async (key) => {
      const found = await lstat(this.#pathOf(key)).catch(ifMissing(undefined));
      return found === undefined ? 0 : 1;
    });
  }

  async remove(keys: KeyBatch): Promise<Uint8Array> {
    if (this.#options.layout === "kvferry") return (await (await this.#opened()).remove(keys.bytes)).outcomes;
    // the data plane leaves alone what is not of one namespace, and here several share a folder
    return forEachKey(keys, async (key) => {
      try {
        await unlink(this.#pathOf(key));
        return Outcome.REMOVED;
      } catch (thrown) {
        return isMissing(thrown) ? Outcome.MISS : Outcome.FAILED;
      }
    });
  }

  async close(): Promise<void> {
    const store = await this.#store?.catch(() => undefined);
    store?.close();
  }

  async #list({ path, keyOf }: LeafFolder): Promise<FolderBlocks> {
    const { names, bytes, modifiedAtMs } = await (await this.#opened()).listFolder(path);
    const { keyBytes } = this;
    const keys = new Uint8Array(names.length * keyBytes);
    let count = 0;
    let others = NO_AMOUNT;
    for (const [i, name] of names.entries()) {
      const key = keyOf(name);
      if (key === undefined) {
        others = plusAmount(others, { bytes: bytes[i] as number, files: 1 });
        continue;
      }
      keys.set(key, count * keyBytes);
      bytes[count] = bytes[i] as number;
      modifiedAtMs[count] = modifiedAtMs[i] as number;
      count++;
    }
    return {
      keys: { bytes: keys.subarray(0, count * keyBytes), stride: keyBytes, count },
      bytes,
      modifiedAtMs,
      others,
    };
  }

  #pathOf(key: Uint8Array): string {
    return blockPath(this.#options.layout, this.#options.blocks, key);
  }

  #opened(): Promise<FileStore> {
    const { engine, layout, blocks, scratch, own, writer, keyBytes, blockBytes, fileMode, folderMode } = this.#options;
    this.#store ??= engine.openStore({
      blocksFolder: blocks,
      tmpFolder: scratch,
      quarantineFolder: join(own, "quarantine"),
      quarantineFilesMax: 0,
      namespaceDigest: new Uint8Array(32),
      fsync: false,
      adopt: false,
      direct: "off",
      publish: "rename",
      ...{ layout, writer, keyBytes, blockBytes, fileMode, folderMode },
    });
    this.#store.catch(() => {
      this.#store = undefined;
    });
    return this.#store;
  }
}

function layoutOf(name: string): LayoutName | undefined {
  if (/^[0-9a-f]{64}$/.test(name)) return "kvferry";
  return /_[0-9a-f]{12}_r\d+$/.test(name) ? "vllm-fs" : undefined;
}

/** What the namespace's description says; undefined if there is none that makes sense. */
async function described(own: string): Promise<FolderFacts | undefined> {
  const names = (await readdir(own).catch(ifMissing<string[]>([]))).sort();
  for (const name of names) {
    if (!/^namespace(-[0-9a-f]{64})?\.json$/.test(name)) continue;
    try {
      const { keyBytes, blockBytes, fields } = JSON.parse(await readFile(join(own, name), "utf8"));
      const tenant: unknown = fields?.tenant;
      if (isWithin(keyBytes, KEY_BYTES_MIN, KEY_BYTES_MAX) && isWithin(blockBytes, 1, 2 ** 40)) {
        return { keyBytes, blockBytes, tenant: typeof tenant === "string" ? tenant : "" };
      }
    } catch {} // damaged: another one, or the files themselves, may tell
  }
  return undefined;
}

/** The length of keys from a file's name. */
async function guessed(layout: LayoutName, blocks: string): Promise<FolderFacts | undefined> {
  const own = layout === "kvferry" ? blocks : join(blocks, ".kvferry");
  if ((await lstat(own).catch(() => undefined)) === undefined) return undefined; // vLLM's alone
  for (let keyBytes = KEY_BYTES_MIN; keyBytes <= KEY_BYTES_MAX; keyBytes++) {
    for await (const leaf of leafFolders(layout, blocks, keyBytes)) {
      for (const name of await readdir(leaf.path)) {
        if (leaf.keyOf(name) !== undefined) return { keyBytes, blockBytes: 4096, tenant: "" };
      }
    }
  }
  return undefined;
}

/** Removes scratch folders of processes that have ended. */
export async function removeDeadScratch(capacityFolder: string): Promise<void> {
  for (const name of await readdir(capacityFolder)) {
    if (name.startsWith(SCRATCH) && writerHasEnded(name.slice(SCRATCH.length)) === true) {
      await rm(join(capacityFolder, name), { recursive: true, force: true });
    }
  }
}

const SCRATCH = "scratch-";

export function scratchFolder(capacityFolder: string, writer: string): string {
  return join(capacityFolder, `${SCRATCH}${writer}`);
}

async function forEachKey(keys: KeyBatch, answer: (key: Uint8Array) => Promise<number>): Promise<Uint8Array> {
  const answers = new Uint8Array(keys.count);
  for (let from = 0; from < keys.count; from += PARALLEL) {
    const indices = Array.from({ length: Math.min(PARALLEL, keys.count - from) }, (_, i) => from + i);
    const part = await Promise.all(indices.map((i) => answer(keyAt(keys, i))));
    answers.set(part, from);
  }
  return answers;
}

function isWithin(value: unknown, least: number, most: number): value is number {
  return Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most;
}

function isMissing(thrown: unknown): boolean {
  const { code } = thrown as NodeJS.ErrnoException;
  return code === "ENOENT" || code === "ENOTDIR";
}

function ifMissing<T>(instead: T): (thrown: unknown) => T {
  return (thrown) => {
    if (isMissing(thrown)) return instead;
    throw thrown;
  };
}

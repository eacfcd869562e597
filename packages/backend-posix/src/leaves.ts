import { type KeyBatch, packKeys, type ScanEntry } from "@kvferry/core";
import type { FileStore, LayoutName } from "@kvferry/native";
import { leafFolders } from "./layout.js";
import type { PathCalls } from "./path-calls.js";

/** What was found in one folder, and `Presence.removals` before it was listed. */
export interface Leaf {
  readonly entries: readonly ScanEntry[];
  readonly keys: KeyBatch;
  readonly removals: number;
}

export interface LeavesOptions {
  readonly layout: LayoutName;
  readonly blocks: string;
  readonly keyBytes: number;
  readonly blockBytes: number;
  readonly fileBytes: number;
  readonly adopt: boolean;
  readonly files: FileStore;
  readonly calls: PathCalls;
  /** Ends a listing that hangs, where the engine can. */
  readonly signal: AbortSignal | undefined;
  removals(): number;
}

/** The blocks of a namespace, one folder after the other. */
export async function* blocksIn(options: LeavesOptions): AsyncGenerator<Leaf> {
  const { layout, blocks, keyBytes, blockBytes, fileBytes, adopt, files, calls, signal } = options;
  for await (const leaf of leafFolders(layout, blocks, keyBytes, calls)) {
    const removals = options.removals();
    const listing = await files.listFolder(leaf.path, signal);
    const entries: ScanEntry[] = [];
    for (const [i, name] of listing.names.entries()) {
      const bytes = listing.bytes[i] as number;
      if (bytes !== fileBytes && !(adopt && bytes === blockBytes)) continue;
      const key = leaf.keyOf(name);
      const at = listing.modifiedAtMs[i] as number;
      if (key) entries.push({ key, bytes, storedAtMs: at, usedAtMs: at });
    }
    yield await ownOnly({ entries, keys: keysOf(entries, keyBytes), removals }, options);
  }
}

/** In vLLM's directory other namespaces have the same paths; the files tell whose they are. */
async function ownOnly(leaf: Leaf, { layout, files, keyBytes, signal }: LeavesOptions): Promise<Leaf> {
  if (layout !== "vllm-fs" || leaf.entries.length === 0) return leaf;
  const ours = await files.exists(leaf.keys.bytes, signal);
  const entries = leaf.entries.filter((_, i) => ours[i] === 1);
  return { ...leaf, entries, keys: keysOf(entries, keyBytes) };
}

function keysOf(entries: readonly ScanEntry[], keyBytes: number): KeyBatch {
  return packKeys(
    entries.map(({ key }) => key),
    keyBytes,
  );
}

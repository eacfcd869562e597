import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { type BlockSpeed, type FolderFacts, storedBlockBytes } from "@kvferry/core";
import {
  createFileEngine,
  createRegion,
  type FileStore,
  type FileStoreOptions,
  type MappedRegion,
} from "@kvferry/native";
import { fillRandom, KEY_BYTES, markBlocks, quantile, requireMoved } from "../bench/sample-blocks.js";

const KIB = 1024;
const BLOCK_BYTES: readonly number[] = [64 * KIB, 1024 * KIB, 4096 * KIB];
const DEPTHS: readonly number[] = [1, 8, 32];
/** A cell ends after so much time or so many bytes, whichever is first; each stored block is loaded once. */
const CELL_MS = 1500;
const CELL_BYTES = 64 * KIB * KIB;
const BATCHES_MIN = 3;

export interface SpeedOptions {
  /** Folder of the probe's own. */
  readonly scratch: string;
  /** Free bytes there: no more than a quarter of it is filled. */
  readonly bytesFree: number;
  onCell?(done: number, total: number, label: string): void;
}

/** Stores and loads blocks as the posix backend does, several sizes at several depths, one cell after the other.
 * @throws KvferryError with the code of a block that could not be stored or loaded. */
export async function measureSpeeds(options: SpeedOptions): Promise<FolderFacts["measured"]> {
  const cells = BLOCK_BYTES.flatMap((blockBytes) => DEPTHS.map((depth) => ({ blockBytes, depth })));
  const fitting = cells.filter(({ blockBytes, depth }) => blockBytes * depth * BATCHES_MIN * 4 <= options.bytesFree);
  const speeds: BlockSpeed[] = [];
  let uncached = true;
  for (const [i, { blockBytes, depth }] of fitting.entries()) {
    options.onCell?.(i, fitting.length, `${blockBytes / KIB} KiB, ${depth} at a time`);
    const bytesMax = Math.min(CELL_BYTES, options.bytesFree / 4);
    const measured = await measureCell(join(options.scratch, `cell-${i}`), blockBytes, depth, bytesMax);
    speeds.push(measured.speed);
    uncached &&= measured.direct;
  }
  return { speeds, uncached: uncached && speeds.length > 0 };
}

async function measureCell(
  folder: string,
  blockBytes: number,
  depth: number,
  bytesMax: number,
): Promise<{ readonly speed: BlockSpeed; readonly direct: boolean }> {
  const engine = createFileEngine({ threads: Math.max(2, depth) });
  const region = createRegion({ rows: depth, rowBytes: blockBytes });
  try {
    const store = await engine.openStore(storeOptions(folder, blockBytes));
    try {
      fillRandom(region);
      const batches: Uint8Array[] = [];
      const most = Math.max(BATCHES_MIN, Math.floor(bytesMax / storedBlockBytes(blockBytes) / depth));
      const stored = await timed(most, async () => {
        const keys = randomBytes(KEY_BYTES * depth);
        batches.push(keys);
        markBlocks(region, keys);
        await move(store, "store", keys, region);
      });
      let next = 0;
      const loaded = await timed(batches.length, () => move(store, "load", batches[next++] as Uint8Array, region));
      const bytes = blockBytes * depth;
      const speed: BlockSpeed = {
        ...{ blockBytes, depth },
        storeBytesPerSecond: (bytes * stored.length * 1000) / sum(stored),
        loadBytesPerSecond: (bytes * loaded.length * 1000) / sum(loaded),
        ...(depth === 1 ? { loadMs: { half: quantile(loaded, 0.5), most: quantile(loaded, 0.99) } } : {}),
      };
      return { speed, direct: store.direct };
    } finally {
      store.close();
    }
  } finally {
    await engine.close();
    region.close();
  }
}

function storeOptions(folder: string, blockBytes: number): FileStoreOptions {
  return {
    blocksFolder: join(folder, "blocks"),
    tmpFolder: join(folder, "tmp"),
    quarantineFolder: join(folder, "quarantine"),
    ...{ quarantineFilesMax: 1, layout: "kvferry", namespaceDigest: randomBytes(32), writer: "doctor" },
    ...{ keyBytes: KEY_BYTES, blockBytes, fileMode: 0o600, folderMode: 0o700 },
    ...{ fsync: false, adopt: false, direct: "auto", publish: "auto" },
  };
}

async function move(store: FileStore, what: "store" | "load", keys: Uint8Array, region: MappedRegion): Promise<void> {
  const slots = Uint32Array.from({ length: region.rows }, (_, i) => i);
  requireMoved(what, await store[what]({ keys, memory: region.bytes, rowBytes: region.rowBytes, slots }));
}

/** Ms of each of at most `most` steps, as many as there is time for. */
async function timed(most: number, step: () => Promise<void>): Promise<number[]> {
  const times: number[] = [];
  const endMs = performance.now() + CELL_MS;
  while (times.length < most && (times.length < BATCHES_MIN || performance.now() < endMs)) {
    const startMs = performance.now();
    await step();
    times.push(performance.now() - startMs);
  }
  return times;
}

function sum(times: readonly number[]): number {
  return times.reduce((total, each) => total + each, 0);
}

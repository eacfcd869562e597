import { type OffloadBackend, Outcome, packKeys, type ScanEntry } from "@kvferry/core";
import { createRegion } from "@kvferry/native";
import { Pace } from "./pace.js";

/** Blocks read at a time: memory, not speed, is what bounds a scrub. */
const BATCH_BYTES_MAX = 64 * 2 ** 20;
const BATCH_BLOCKS_MAX = 256;
const PAGE_BYTES = 4096; // rows that O_DIRECT takes

export interface ScrubCounts {
  /** Blocks that were read. */
  blocks: number;
  bytes: number;
  sound: number;
  /** Damaged; the backend has set them aside, so that they are stored anew. */
  corrupt: number;
  /** Listed, and not there any more when their turn came. */
  gone: number;
  /** Could not be read. */
  failed: number;
}

export interface ScrubOptions {
  /** Payload bytes a second, at most. */
  readonly rateBytesMax?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called after every batch. */
  onProgress?(counts: Readonly<ScrubCounts>): void;
}

/** Reads every block of an open backend and lets it verify each. Stops early when the signal is aborted, with what was counted so far.
 * @throws KvferryError UNSUPPORTED where the backend has no scan. */
export async function scrub(backend: OffloadBackend, options: ScrubOptions = {}): Promise<ScrubCounts> {
  const { blockBytes } = backend.context;
  const rows = Math.max(1, Math.min(BATCH_BLOCKS_MAX, Math.floor(BATCH_BYTES_MAX / blockBytes)));
  const region = createRegion({ rows, rowBytes: Math.ceil(blockBytes / PAGE_BYTES) * PAGE_BYTES });
  const counts: ScrubCounts = { blocks: 0, bytes: 0, sound: 0, corrupt: 0, gone: 0, failed: 0 };
  const pace = new Pace(options.rateBytesMax);
  try {
    for await (const page of backend.scan({ pageEntriesMax: rows })) {
      if (options.signal?.aborted) break;
      await pace.wait(page.length * blockBytes, options.signal);
      await readPage(backend, page, region, counts);
      options.onProgress?.(counts);
    }
  } finally {
    region.close();
  }
  return counts;
}

async function readPage(
  backend: OffloadBackend,
  page: readonly ScanEntry[],
  region: ReturnType<typeof createRegion>,
  counts: ScrubCounts,
): Promise<void> {
  if (page.length === 0) return;
  const keys = packKeys(page.map(({ key }) => key));
  const { outcomes } = await backend.load({ keys, region, slots: Uint32Array.from(page.keys()) });
  for (const outcome of outcomes) {
    counts.blocks++;
    if (outcome === Outcome.LOADED) {
      counts.sound++;
      counts.bytes += backend.context.blockBytes;
    } else if (outcome === Outcome.CORRUPT) counts.corrupt++;
    else if (outcome === Outcome.MISS) counts.gone++;
    else counts.failed++;
  }
}

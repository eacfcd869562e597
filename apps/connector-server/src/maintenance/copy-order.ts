import type { ScanEntry } from "@kvferry/core";

/** Uses within so long of each other are one time: what is known of them says no more. */
const SAME_TIME_MS = 60_000;

/** Keys of blocks that follow one another in a chain, first to last. One alone where nothing is known. */
export type Run = readonly Uint8Array[];

/**
 * The order in which blocks are copied: what was used last comes first, and a block never before those that come before it in its chain, so that
 * what has arrived can be used whenever the copy ends. Where the parents are not known, the older of two blocks
 * that were used at about the same time is first: chains are stored from their beginning.
 *
 * Blocks go in runs, because storages take the order of a batch for the order of a chain.
 *
 * @param runBlocksMax longest run.
 */
export function inCopyOrder(entries: readonly ScanEntry[], runBlocksMax: number): Run[] {
  const wanted = entries.slice().sort(hotterFirst);
  const byKey = new Map(wanted.filter(hasParent).length === 0 ? [] : wanted.map((entry) => [textOf(entry.key), entry]));
  const runs: Uint8Array[][] = [];
  const placed = new Set<ScanEntry>();
  let last: ScanEntry | undefined;
  for (const entry of wanted) {
    for (const each of withAncestors(entry, byKey, placed)) {
      const run = runs.at(-1);
      const follows = last !== undefined && each.parent !== undefined && textOf(each.parent) === textOf(last.key);
      if (run !== undefined && follows && run.length < runBlocksMax) run.push(each.key);
      else runs.push([each.key]);
      last = each;
    }
  }
  return runs;
}

/** A block, and before it those of its chain that have not been placed yet; all are placed then. */
function withAncestors(
  entry: ScanEntry,
  byKey: ReadonlyMap<string, ScanEntry>,
  placed: Set<ScanEntry>,
): readonly ScanEntry[] {
  const chain: ScanEntry[] = [];
  for (let at: ScanEntry | undefined = entry; at !== undefined && !placed.has(at); ) {
    placed.add(at);
    chain.push(at);
    at = at.parent && byKey.get(textOf(at.parent));
  }
  return chain.reverse();
}

type UseTimes = Pick<ScanEntry, "storedAtMs" | "usedAtMs">;

/** Array.sort keeps the order of equals: that of the listing, in which some storages have the order of their stores. */
export function hotterFirst(a: UseTimes, b: UseTimes): number {
  return timeOf(b.usedAtMs) - timeOf(a.usedAtMs) || a.storedAtMs - b.storedAtMs;
}

function timeOf(ms: number): number {
  return Math.floor(ms / SAME_TIME_MS);
}

function hasParent({ parent }: ScanEntry): boolean {
  return parent !== undefined;
}

function textOf(key: Uint8Array): string {
  return Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString("latin1");
}

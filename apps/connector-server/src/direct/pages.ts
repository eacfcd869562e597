/** Where the chunks of a batch are in a worker's memory. */
export interface Pages {
  readonly groups: Uint32Array;
  /** Chunk after chunk, of each as many. */
  readonly blocks: Uint32Array;
}

/** Those of some of `count` chunks. */
export function selectPages({ groups, blocks }: Pages, count: number, positions: readonly number[]): Pages {
  if (positions.length === count) return { groups, blocks };
  const each = blocks.length / count;
  const selected = new Uint32Array(positions.length * each);
  for (const [k, i] of positions.entries()) selected.set(blocks.subarray(i * each, (i + 1) * each), k * each);
  return { groups: Uint32Array.from(positions, (i) => groups[i] as number), blocks: selected };
}

import type { AuthorContext } from "../backend.js";
import type { KeyBatch } from "../keys.js";
import type { StagingPool } from "../layers/staging-pool.js";
import type { BlockMap } from "./block-map.js";
import type { Move, MoveResult } from "./metrics.js";
import type { MissReasons } from "./miss-reasons.js";
import type { Mover } from "./mover.js";
import type { Tier } from "./tier.js";

/** What the parts of an open store share. */
export interface StoreParts {
  readonly context: AuthorContext;
  /** From fast to slow. */
  readonly tiers: readonly Tier[];
  /** One for each tier: copies blocks into it. */
  readonly movers: readonly Mover[];
  readonly map: BlockMap;
  readonly reasons: MissReasons;
  /** Aborted when copies in the background have to end. */
  readonly stopping: AbortSignal;
  staging(): StagingPool;
  moved(tier: Tier, move: Move, result: MoveResult, blocks: number): void;
  /** No tier has these blocks any more, and none will. */
  lost(keys: KeyBatch): void;
}

/** Bits of the tiers that can be asked now. */
export function upMask(tiers: readonly Tier[]): number {
  let mask = 0;
  for (const tier of tiers) if (tier.isUp) mask |= tier.bit;
  return mask;
}

/** Bits of the tiers that may have blocks of which the map knows nothing. */
export function openMask(tiers: readonly Tier[]): number {
  let mask = 0;
  for (const tier of tiers) if (!tier.exact) mask |= tier.bit;
  return mask;
}

/** The fastest tier of a mask that is not 0. */
export function fastest(tiers: readonly Tier[], mask: number): Tier {
  return tiers[31 - Math.clz32(mask & -mask)] as Tier;
}

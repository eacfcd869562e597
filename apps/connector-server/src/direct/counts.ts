/** Why a chunk that engines gathered is in no tier. */
export type DropReason =
  /** No staging slot was free in time. */
  | "staging"
  /** A part of it did not come in time, or its engine ended before. */
  | "part_missing"
  /** A part of it could not be copied. */
  | "part_failed"
  /** The tiers did not take it. */
  | "tiers";

/** Where HOLD found, or did not find, a block. */
export type HoldSource = "arena" | "tier";

/** What direct mode counts; plain numbers, which only rise. */
export class DirectCounts {
  gatheredParts = 0;
  gatheredBytes = 0;
  scatteredParts = 0;
  scatteredBytes = 0;
  /** Chunks by what the tiers said: stored, present. */
  storedBlocks = 0;
  presentBlocks = 0;
  readonly dropped: Map<DropReason, number> = new Map();
  /** By source and outcome, as "arena loaded". */
  readonly held: Map<string, number> = new Map();

  drop(reason: DropReason, blocks = 1): void {
    this.dropped.set(reason, (this.dropped.get(reason) ?? 0) + blocks);
  }

  hold(source: HoldSource, outcome: string): void {
    const name = `${source} ${outcome}`;
    this.held.set(name, (this.held.get(name) ?? 0) + 1);
  }
}

import { type BatchResult, Outcome } from "../outcomes.js";
import type { Move } from "./metrics.js";
import type { StoreParts } from "./parts.js";
import type { Tier } from "./tier.js";

/** Counts what became of blocks that were copied into a tier. */
export function countMoves(parts: StoreParts, tier: Tier, move: Move, { outcomes }: BatchResult): void {
  let [done, dropped, failed] = [0, 0, 0];
  for (const outcome of outcomes) {
    if (outcome === Outcome.FAILED) failed++;
    else if (outcome === Outcome.DROPPED) dropped++;
    else done++;
  }
  if (done > 0) parts.moved(tier, move, "done", done);
  if (dropped > 0) parts.moved(tier, move, "dropped", dropped);
  if (failed > 0) parts.moved(tier, move, "failed", failed);
}

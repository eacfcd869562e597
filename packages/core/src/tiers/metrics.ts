import type { MetricDefinition } from "../layers/metrics.js";

/** Every metric of a tiered store, so that an exporter can register them before they are used. Label values: `reason` as in `MISS_REASONS`; `tier` the name
 * of the tier that was to get the blocks; `move` promotion, cascade, write-back or warm; `result` done, dropped (the tier is behind or down, or the
 * block went before its turn) or failed. */
export const TIER_METRICS: readonly MetricDefinition[] = Object.freeze([
  {
    name: "kvferry_misses_total",
    type: "counter",
    help: "Keys that a lookup or load did not find, by why they were not there.",
    labelNames: ["reason"],
  },
  {
    name: "kvferry_tier_moved_blocks_total",
    type: "counter",
    help: "Blocks that were to be copied from one tier to another, by what became of them.",
    labelNames: ["tier", "move", "result"],
  },
  {
    name: "kvferry_tier_hits_total",
    type: "counter",
    help: "Blocks that were loaded, by the tier that had them.",
    labelNames: ["tier"],
  },
] satisfies MetricDefinition[]);

/** Why a block is copied to another tier. */
export type Move = "promotion" | "cascade" | "write-back" | "warm";
export type MoveResult = "done" | "dropped" | "failed";

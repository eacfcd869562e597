import type { BlockUse } from "./policy.js";

/** Parts of each group of classes, from what says most on: uses, distance from the request's end, position. */
export const CLASS_LEVELS: readonly number[] = [5, 3, 5];
export const CLASSES: number = CLASS_LEVELS.reduce((product, parts) => product * parts, 1);
/** More uses than these make no other class. */
export const CLASS_USES_MAX = 6;

/** The class of a block that a request has just used; `uses` counts those before, with what is remembered from before its last eviction. */
export function classOf(use: BlockUse, uses: number): number {
  const [, ends, positions] = CLASS_LEVELS as [number, number, number];
  return (usesPart(uses) * ends + endPart(use.requestBlocks - 1 - use.position)) * positions + positionPart(use.position);
}

function usesPart(uses: number): number {
  if (uses < 3) return uses;
  return uses < CLASS_USES_MAX ? 3 : 4;
}

/** The last block of a request is often only partly filled, and then never used again. */
function endPart(distance: number): number {
  if (distance <= 0) return 0;
  return distance < 8 ? 1 : 2;
}

/** 0–1, 2–3, 4–7, 8–15, 16 and more. */
function positionPart(position: number): number {
  return Math.min(4, Math.max(0, 31 - Math.clz32(position | 1)));
}

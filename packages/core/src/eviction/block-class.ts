import type { BlockUse } from "./policy.js";

const USES_PARTS = 5;
const END_PARTS = 3;
const POSITION_PARTS = 3;
const KNOWN_PARTS = 3;
/** Parts of each group of classes, from what says most on: uses, distance from the request's end, position, share of the request that was known. */
export const CLASS_LEVELS: readonly number[] = [USES_PARTS, END_PARTS, POSITION_PARTS, KNOWN_PARTS];
export const CLASSES: number = USES_PARTS * END_PARTS * POSITION_PARTS * KNOWN_PARTS;
/** More uses than these make no other class. */
export const CLASS_USES_MAX = 6;

/** The class of a block that a request has just used.
 * @param uses before this one, with what is remembered from before its last eviction.
 * @param knownBlocks of the request, from its start up to the last one that an earlier request had brought, evicted since or not. */
export function classOf(use: BlockUse, uses: number, knownBlocks: number): number {
  const byEnd = usesPart(uses) * END_PARTS + endPart(use.requestBlocks - 1 - use.position);
  const byPosition = byEnd * POSITION_PARTS + positionPart(use.position);
  return byPosition * KNOWN_PARTS + knownPart(knownBlocks, use.requestBlocks);
}

/** 0, 1, 2, 3 to 5, 6 and more. */
function usesPart(uses: number): number {
  if (uses < 3) return uses;
  return uses < CLASS_USES_MAX ? 3 : 4;
}

/** The last block of a request is often filled only in part, and then never used again. */
function endPart(distance: number): number {
  if (distance <= 0) return 0;
  return distance < 8 ? 1 : 2;
}

function positionPart(position: number): number {
  if (position < 4) return 0;
  return position < 16 ? 1 : 2;
}

/** What continues a conversation is likelier to be continued. What was evicted counts as well, so that a class does not depend on what was kept. */
function knownPart(knownBlocks: number, requestBlocks: number): number {
  if (knownBlocks * 4 < requestBlocks) return 0;
  return knownBlocks * 4 < requestBlocks * 3 ? 1 : 2;
}

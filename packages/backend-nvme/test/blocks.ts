import {
  type BlockBatch,
  createMemoryRegion,
  createNamespace,
  type KeyBatch,
  keyAt,
  type Namespace,
  type OffloadBackend,
  Outcome,
  packedKeys,
  slotBytes,
} from "@kvferry/core";
import { expect } from "vitest";
import { fillBlock, KEY_BYTES, makeKeys, namespaceFields, numberOf } from "./crash-blocks.mjs";

export function namespaceOf(fields: object = {}): Namespace {
  return createNamespace({ ...namespaceFields, ...fields });
}

/** Keys of the blocks first, first + 1, … */
export function keysFrom(first: number, count: number): KeyBatch {
  return packedKeys(makeKeys(first, count), KEY_BYTES);
}

/** A batch whose slots hold what belongs to their keys. */
export function batchOf(keys: KeyBatch, blockBytes: number): BlockBatch {
  const region = createMemoryRegion(keys.count, Math.max(blockBytes, 8));
  for (let i = 0; i < keys.count; i++) fillBlock(slotBytes(region, i, blockBytes), numberOf(keyAt(keys, i)));
  return { keys, region, slots: Uint32Array.from({ length: keys.count }, (_, i) => i) };
}

/** Loads, and fails if a LOADED slot does not hold what belongs to its key. Outcomes. */
export async function load(backend: OffloadBackend, keys: KeyBatch): Promise<Uint8Array> {
  const { blockBytes } = backend.context;
  const region = createMemoryRegion(keys.count, Math.max(blockBytes, 8));
  const slots = Uint32Array.from({ length: keys.count }, (_, i) => i);
  const { outcomes } = await backend.load({ keys, region, slots });
  const expected = new Uint8Array(blockBytes);
  for (let i = 0; i < keys.count; i++) {
    if (outcomes[i] !== Outcome.LOADED) continue;
    fillBlock(expected, numberOf(keyAt(keys, i)));
    if (Buffer.compare(expected, slotBytes(region, i, blockBytes)) !== 0) {
      expect.fail(`block ${numberOf(keyAt(keys, i))} was LOADED with other bytes`);
    }
  }
  return outcomes;
}

export function count(outcomes: Uint8Array, outcome: number): number {
  return outcomes.filter((each) => each === outcome).length;
}

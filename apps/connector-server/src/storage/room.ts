import { KEPT_FREE_SHARE } from "@kvferry/core";
import type { TierRuntime } from "./tier-runtime.js";

/** Bytes that the blocks of a tier without `roomBlocks` can still take without others having to go; Infinity without a capacity. Opens every namespace
 * that is there, to count it. */
export async function freeBytesOf(tier: TierRuntime): Promise<number> {
  const { capacityBytes } = tier;
  if (capacityBytes === undefined) return Number.POSITIVE_INFINITY;
  let usedBytes = 0;
  for (const stored of await tier.namespaces()) {
    const backend = tier.createBackend(stored.namespace, stored);
    await backend.open(stored);
    try {
      usedBytes += (await backend.usage()).bytes;
    } finally {
      await backend.close();
    }
  }
  return Math.max(0, capacityBytes * (1 - KEPT_FREE_SHARE) - usedBytes);
}

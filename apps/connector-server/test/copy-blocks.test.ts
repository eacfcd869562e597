// What a copy does to storages in trouble: it neither piles up blocks, nor reads a long list for nothing, nor makes others lose theirs.
import { createMemoryRegion, type KeyBatch, MemoryBackend, type OffloadBackend } from "@kvferry/core";
import { describe, expect, it, onTestFinished } from "vitest";
import { type LayeredBackend, withTierLayers } from "../src/layers.js";
import { type CopyOptions, copyBlocks, noCounts } from "../src/maintenance/copy-blocks.js";
import { FailingBackend } from "./failing-backend.js";
import { GatedBackend } from "./gated-backend.js";
import { BLOCK_BYTES, KEY_BYTES, randomKeys, range, until } from "./helpers.js";
import { NAMESPACE } from "./storages.js";

const TIMEOUT_MS = 60_000;
const OPTIONS: CopyOptions = { blocksMax: 8, roomBlocks: Number.POSITIVE_INFINITY, verify: false };

async function opened(backend: OffloadBackend): Promise<LayeredBackend> {
  const layered = withTierLayers(backend, { deadlineMs: 60_000 });
  await layered.backend.open({ namespace: NAMESPACE, keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES });
  onTestFinished(() => layered.backend.close());
  return layered;
}

async function holding(keys: KeyBatch): Promise<LayeredBackend> {
  const source = await opened(new MemoryBackend());
  const region = createMemoryRegion(keys.count, BLOCK_BYTES);
  await source.backend.store({ keys, region, slots: Uint32Array.from(range(keys.count)) });
  return source;
}

describe("copying blocks", { timeout: TIMEOUT_MS }, () => {
  it("into a storage that is slow reads no more than may be on the way", async () => {
    const counts = noCounts();
    const gated = new GatedBackend();
    const copying = copyBlocks(await holding(randomKeys(100)), await opened(gated), OPTIONS, counts);
    await until(() => gated.waiting.length === 8, TIMEOUT_MS);
    for (const _ of range(20)) await new Promise((resolve) => setImmediate(resolve)); // whoever would read more has had its turn
    expect(gated.waiting).toHaveLength(8);
    expect(counts.readBytes).toBe(8 * BLOCK_BYTES);
    const ending = setInterval(() => gated.endAll(), 1);
    await copying.finally(() => clearInterval(ending));
    expect(counts).toMatchObject({ copiedBlocks: 100, readBytes: 100 * BLOCK_BYTES });
  });

  it("into a storage that fails ends soon, with its name and code", async () => {
    const counts = noCounts();
    const copying = copyBlocks(await holding(randomKeys(400)), await opened(new FailingBackend("IO")), OPTIONS, counts);
    await expect(copying).rejects.toThrow(/^TO fails again and again \(IO/);
    expect(counts.copiedBlocks).toBe(0);
    expect(counts.readBytes).toBeLessThan(400 * BLOCK_BYTES);
  });

  it("ends as soon as something there had to go", async () => {
    const counts = noCounts();
    const gated = new GatedBackend();
    const copying = copyBlocks(await holding(randomKeys(100)), await opened(gated), OPTIONS, counts);
    await until(() => gated.waiting.length === 8, TIMEOUT_MS);
    gated.evict(1);
    gated.endAll();
    await copying;
    expect(counts).toMatchObject({ full: true, copiedBlocks: 8, readBytes: 8 * BLOCK_BYTES });
  });
});

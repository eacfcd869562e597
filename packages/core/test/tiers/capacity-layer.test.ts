import { describe, expect, it } from "vitest";
import {
  type AuthorOptions,
  type BatchResult,
  type BlockBatch,
  CapacityLayer,
  createMemoryRegion,
  type KeyBatch,
  Layer,
  MemoryBackend,
  type OffloadBackend,
  Outcome,
  packKeys,
} from "../../src/index.js";
import { namespace } from "../fixtures.js";

const keysOf = (ids: readonly number[]): KeyBatch =>
  packKeys(
    ids.map((id) => Uint8Array.of(id, 0, 0, 0, 0)),
    5,
  );
const batchOf = (ids: readonly number[]): BlockBatch => ({
  keys: keysOf(ids),
  region: createMemoryRegion(ids.length, 100),
  slots: Uint32Array.from(ids, (_, i) => i),
});

async function opened<Backend extends OffloadBackend>(backend: Backend): Promise<Backend> {
  await backend.open({ namespace, keyBytes: 5, blockBytes: 100 });
  return backend;
}

/** Finds damage at the moment at which the block is stored anew. */
class Forgetful extends Layer {
  constructor(inner: OffloadBackend) {
    super(inner);
  }

  protected override async _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    this.announceRemoved(batch.keys, "corrupt");
    await new Promise((resolve) => setTimeout(resolve, 5));
    return super._store(batch, options);
  }
}

describe("a bound", () => {
  it("holds though blocks are said to have gone while they come", async () => {
    const inner = new Forgetful(new MemoryBackend());
    const layer = await opened(new CapacityLayer(inner, { capacityBytes: 400, policy: "lru" }));
    await layer.store(batchOf([1, 2, 3, 4]));
    const again = layer.store(batchOf([1, 2, 3, 4]));
    await new Promise((resolve) => setImmediate(resolve));
    await Promise.all([again, layer.store(batchOf([11, 12, 13, 14]))]);
    expect((await layer.usage()).blocks).toBe(4);
    await layer.close();
  });

  it("holds for a batch longer than itself: the beginning is kept", async () => {
    const layer = await opened(new CapacityLayer(new MemoryBackend(), { capacityBytes: 399, policy: "lru" }));
    const { outcomes } = await layer.store(batchOf([1, 2, 3, 4, 5]));
    const { STORED, DROPPED } = Outcome;
    expect([...outcomes]).toEqual([STORED, STORED, STORED, DROPPED, DROPPED]);
    expect(await layer.usage()).toEqual({ blocks: 3, bytes: 300, capacityBytes: 399 });
    await layer.close();
  });

  it("counts the bytes that a block takes in the backend, where it is told", async () => {
    const config = { capacityBytes: 1000, storedBytes: (blockBytes: number) => blockBytes + 400 };
    const layer = await opened(new CapacityLayer(new MemoryBackend(), config));
    await layer.store(batchOf([1]));
    await layer.store(batchOf([2, 3]));
    expect((await layer.usage()).blocks).toBe(2);
    await layer.close();
  });

  it("is refused for a backend that cannot list or remove", () => {
    class Simple extends Layer {
      constructor() {
        super(new MemoryBackend(), {
          ...new MemoryBackend().manifest,
          capabilities: { ...new MemoryBackend().manifest.capabilities, remove: false },
        });
      }
    }
    expect(() => new CapacityLayer(new Simple(), { capacityBytes: 1 })).toThrow(/must be able to scan and to remove/);
  });
});

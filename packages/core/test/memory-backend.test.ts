import { describe, expect, it } from "vitest";
import {
  createMemoryRegion,
  createMemoryStorage,
  MemoryBackend,
  type MemoryConfig,
  Outcome,
  outcomeCode,
  packKeys,
} from "../src/index.js";
import { namespace } from "./fixtures.js";

const keys = packKeys([1, 2, 3].map((id) => Uint8Array.of(id, 0, 0, 0, 0)));
const batchOf = (rowBytes: number) => ({
  keys,
  region: createMemoryRegion(3, rowBytes),
  slots: Uint32Array.of(0, 1, 2),
});

async function opened(config: MemoryConfig, blockBytes = 100): Promise<MemoryBackend> {
  const backend = new MemoryBackend(config);
  await backend.open({ namespace, keyBytes: 5, blockBytes });
  return backend;
}

describe("the memory backend", () => {
  it("takes exactly as many blocks as fit, and again when there is room", async () => {
    const backend = await opened({ capacityBytes: 299 });
    const result = await backend.store(batchOf(100));
    expect([...result.outcomes]).toEqual([Outcome.STORED, Outcome.STORED, Outcome.DROPPED]);
    expect(outcomeCode(result, 2)).toBe("NO_SPACE");
    expect(await backend.usage()).toEqual({ bytes: 200, blocks: 2, capacityBytes: 299 });
    await backend.remove(packKeys([Uint8Array.of(1, 0, 0, 0, 0)]));
    expect([...(await backend.store(batchOf(100))).outcomes]).toEqual([
      Outcome.STORED,
      Outcome.PRESENT,
      Outcome.DROPPED,
    ]);
  });

  it("counts what was there before against its capacity", async () => {
    const storage = createMemoryStorage();
    await (await opened({ storage })).store(batchOf(100));
    const backend = await opened({ storage, capacityBytes: 300 });
    expect((await backend.usage()).bytes).toBe(300);
    const more = { ...batchOf(100), keys: packKeys([4, 5, 6].map((id) => Uint8Array.of(id, 0, 0, 0, 0))) };
    expect([...(await backend.store(more)).outcomes]).toEqual([Outcome.DROPPED, Outcome.DROPPED, Outcome.DROPPED]);
  });

  it("never serves a block of another size, and replaces it", async () => {
    const storage = createMemoryStorage();
    await (await opened({ storage }, 100)).store(batchOf(100));
    const backend = await opened({ storage }, 50);
    expect([...(await backend.lookup(keys))]).toEqual([0, 0, 0]);
    expect([...(await backend.load(batchOf(50))).outcomes]).toEqual([Outcome.MISS, Outcome.MISS, Outcome.MISS]);
    await backend.store(batchOf(50));
    expect(await backend.usage()).toMatchObject({ bytes: 150, blocks: 3 });
  });

  it("is durable when its blocks are kept outside of it", () => {
    expect(new MemoryBackend().manifest.capabilities.durable).toBe(false);
    expect(new MemoryBackend({ storage: createMemoryStorage() }).manifest.capabilities.durable).toBe(true);
  });

  it("refuses a capacity that is no number of bytes", () => {
    for (const capacityBytes of [-1, 1.5, Number.NaN]) {
      expect(() => new MemoryBackend({ capacityBytes })).toThrow(
        expect.objectContaining({ code: "CONFIG_INVALID", context: { field: "capacityBytes" } }) as never,
      );
    }
  });
});

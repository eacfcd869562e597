import {
  crc32c,
  createMemoryStorage,
  decodeFooter,
  defineManifest,
  IntegrityLayer,
  MemoryBackend,
  Outcome,
  storedBlockBytes,
} from "@kvferry/core";
import { describe, expect, it } from "vitest";
import { assertAllFailed, assertOutcomes, numbers } from "../src/bench.js";
import { FaultyBackend } from "../src/index.js";
import { openBench, TestClock } from "./open-bench.js";

const configInvalid = (field: string) =>
  expect.objectContaining({ code: "CONFIG_INVALID", context: { field } }) as never;

describe("the integrity layer", () => {
  it("stores what docs/block-format.md describes", async () => {
    const storage = createMemoryStorage();
    const clock = new TestClock();
    const layer = new IntegrityLayer(new MemoryBackend({ storage }), { writer: "host-1-2-3" });
    const bench = await openBench(layer, { blockBytes: 5000, clock });
    await bench.mustStore([1]);
    const [[, block] = []] = storage.get(bench.namespace.digestHex)?.blocks ?? [];
    const bytes = block?.bytes as Uint8Array;
    expect(bytes).toHaveLength(storedBlockBytes(5000));
    expect(bytes.subarray(0, 5000)).toEqual(bench.content(1));
    expect(bytes.subarray(5000, 8192).every((byte) => byte === 0)).toBe(true);
    expect(decodeFooter(bytes.subarray(8192))).toEqual({
      ...{ formatVersion: 1, codec: 0, checksumKind: 1, payloadBytes: 5000, payloadChecksum: crc32c(bench.content(1)) },
      ...{ storedAtMs: clock.ms, namespaceDigest: bench.namespace.digest, key: bench.key(1), writer: "host-1-2-3" },
    });
  });

  it("says in its manifest what the two together can do", () => {
    const { manifest } = new IntegrityLayer(new MemoryBackend());
    expect(manifest).toMatchObject({
      name: "memory",
      capabilities: { verifiesPayload: true, zeroCopy: false, scan: true },
    });
    const inner = new FaultyBackend(new MemoryBackend());
    const { limits } = inner.manifest;
    Object.defineProperty(inner, "manifest", {
      value: defineManifest({ name: "x", limits: { ...limits, blockBytesMin: 8193, blockBytesMax: 20_000 } }),
    });
    const { blockBytesMin, blockBytesMax } = new IntegrityLayer(inner).manifest.limits;
    expect([blockBytesMin, blockBytesMax]).toEqual([4097, 12_288]);
    expect(storedBlockBytes(blockBytesMin)).toBeGreaterThanOrEqual(8193);
    expect(storedBlockBytes(blockBytesMin - 1)).toBeLessThan(8193);
    expect(storedBlockBytes(blockBytesMax)).toBeLessThanOrEqual(20_000);
    expect(storedBlockBytes(blockBytesMax + 1)).toBeGreaterThan(20_000);
  });

  it("refuses backends that verify already or have no room for a footer, and settings that make no sense", () => {
    expect(() => new IntegrityLayer(new IntegrityLayer(new MemoryBackend()))).toThrow(configInvalid("backend"));
    const small = new FaultyBackend(new MemoryBackend());
    Object.defineProperty(small, "manifest", { value: defineManifest({ name: "x", limits: { blockBytesMax: 4096 } }) });
    expect(() => new IntegrityLayer(small)).toThrow(configInvalid("backend"));
    expect(() => new IntegrityLayer(new MemoryBackend(), { stagingBytesMax: 0 })).toThrow(
      configInvalid("stagingBytesMax"),
    );
  });

  it("moves batches that are larger than its memory, many at once", async () => {
    const layer = new IntegrityLayer(new MemoryBackend(), { stagingBytesMax: 3 * storedBlockBytes(256) });
    const bench = await openBench(layer);
    await Promise.all(numbers(5).map((n) => bench.mustStore(numbers(20, n * 20))));
    await Promise.all(numbers(5).map((n) => bench.mustLoad(numbers(20, n * 20))));
  });

  it("lets go of a call that waits for memory when it is aborted, and of nothing else", async () => {
    const faulty = new FaultyBackend(new MemoryBackend());
    const bench = await openBench(new IntegrityLayer(faulty, { stagingBytesMax: 1 }));
    const hang = faulty.hang("store");
    const first = bench.mustStore([1, 2]);
    assertAllFailed(await bench.store([3], { deadlineMs: 10 }), "DEADLINE", "store that waits for memory");
    hang.remove();
    await first;
    await bench.mustStore([3]);
    await bench.mustLoad([1, 2, 3]);
  });

  it("gives its memory back when the backend rejects", async () => {
    const faulty = new FaultyBackend(new MemoryBackend());
    const bench = await openBench(new IntegrityLayer(faulty, { stagingBytesMax: 1 }));
    faulty.reject("store", "UNAVAILABLE", 1);
    await expect(bench.store([1])).rejects.toMatchObject({ code: "UNAVAILABLE" });
    await bench.mustStore([1]);
  });

  it("serves no block of another namespace that lies under its key, and does not call it damage", async () => {
    const storage = createMemoryStorage();
    const one = await openBench(new IntegrityLayer(new MemoryBackend({ storage })));
    const other = await openBench(new IntegrityLayer(new MemoryBackend({ storage })));
    await one.mustStore([1]);
    await other.mustStore([2]);
    const [mine, theirs] = [one, other].map(({ namespace }) => storage.get(namespace.digestHex)?.blocks);
    const name = Buffer.from(one.key(1)).toString("latin1");
    theirs?.set(name, mine?.get(name) as never);
    const { result } = await other.load([1, 2]);
    assertOutcomes(result, [Outcome.MISS, Outcome.LOADED], "load of a stranger's block");
    expect(result.codes[0]).toBe(16); // NAMESPACE_MISMATCH
  });

  it("does not carry the damage of one block into the next", async () => {
    const storage = createMemoryStorage();
    const bench = await openBench(new IntegrityLayer(new MemoryBackend({ storage }), { stagingBytesMax: 1 }));
    await bench.mustStore([1]);
    const blocks = storage.get(bench.namespace.digestHex)?.blocks;
    blocks?.get(Buffer.from(bench.key(1)).toString("latin1"))?.bytes.fill(7, 300, 400); // the padding
    assertOutcomes((await bench.load([1])).result, [Outcome.CORRUPT], "load");
    await bench.mustStore([2]); // by way of the same staging memory
    await bench.mustLoad([2]);
  });

  it("tells listeners of damaged blocks that it removed", async () => {
    const storage = createMemoryStorage();
    const layer = new IntegrityLayer(new MemoryBackend({ storage }));
    const bench = await openBench(layer);
    await bench.mustStore([1, 2]);
    const blocks = storage.get(bench.namespace.digestHex)?.blocks;
    blocks?.get(Buffer.from(bench.key(2)).toString("latin1"))?.bytes.fill(0, 0, 1);
    const heard: string[] = [];
    layer.onRemoved((keys, reason) => heard.push(`${Buffer.from(keys.bytes).toString("hex")} ${reason}`));
    assertOutcomes((await bench.load([1, 2])).result, [Outcome.LOADED, Outcome.CORRUPT], "load");
    expect(heard).toEqual([`${bench.hex(2)} corrupt`]);
    expect((await bench.backend.usage()).blocks).toBe(1);
  });
});

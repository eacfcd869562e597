import { mkdtemp, readdir, rm, truncate } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createMemoryRegion, createNamespace, LookupState, Outcome, packKeys } from "@kvferry/core";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { S3Backend } from "../src/index.js";

// What only this backend has; what every backend must do is in conformance.test.ts.

const namespace = createNamespace({
  ...{
    model: "m",
    weights: "00".repeat(32),
    dtype: "d",
    kvDtype: "d",
    layout: "l",
    tokensPerHash: 1,
    blocksPerChunk: 1,
  },
  ...{
    groups: [{ tokensPerBlock: 1, layers: ["0"] }],
    parallel: null,
    engine: "e",
    engineVersion: "1",
    formatVersion: 1,
  },
  tenant: "",
});
const keys = packKeys([Uint8Array.of(0xab, 0, 0, 0, 1)]);
const batch = { keys, region: createMemoryRegion(1, 100), slots: Uint32Array.of(0) };

describe("s3", () => {
  let root: string;
  let backend: S3Backend;

  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), "kvferry-s3-"));
    backend = new S3Backend({ root });
    await backend.open({ namespace, keyBytes: 5, blockBytes: 100 });
  });

  afterEach(async () => {
    await backend.close();
    await rm(root, { recursive: true, force: true });
  });

  it("names a file after its key, and leaves no temporary one", async () => {
    await backend.store(batch);
    expect((await readdir(join(root, namespace.digestHex))).sort()).toEqual(["ab00000001.block", "tmp"]);
    expect(await readdir(join(root, namespace.digestHex, "tmp"))).toEqual([]);
  });

  it("does not serve a file that is too short, and replaces it", async () => {
    await backend.store(batch);
    await truncate(join(root, namespace.digestHex, "ab00000001.block"), 99);
    expect([...(await backend.lookup(keys))]).toEqual([LookupState.MISS]);
    expect([...(await backend.load(batch)).outcomes]).toEqual([Outcome.MISS]);
    expect([...(await backend.store(batch)).outcomes]).toEqual([Outcome.STORED]);
  });

  it("says which setting is wrong", () => {
    const field = (name: string) =>
      expect.objectContaining({ code: "CONFIG_INVALID", context: { field: name } }) as never;
    expect(() => new S3Backend({ root: "relative" })).toThrow(field("root"));
    expect(() => new S3Backend({ root: "/x", filesMax: 0 })).toThrow(field("filesMax"));
  });
});

import { mkdir, mkdtemp, open, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PosixBackend } from "@kvferry/backend-posix";
import { keyHex, MemoryBackend, type OffloadBackend, packKeys, TieredStore, type TierOptions } from "@kvferry/core";
import { createFileEngine } from "@kvferry/native";
import { type BackendFactory, conformance, type DamageHooks, FaultyBackend } from "@kvferry/testkit";
import { afterAll, describe, it } from "vitest";
import { HostArena, HostMemoryBackend } from "../src/index.js";

const MIB = 1024 * 1024;
const engine = createFileEngine({ threads: 8 });
afterAll(() => engine.close());

/** Host memory over files, with whatever is between. Damage is done to the files, and takes the copy in memory away. */
function memoryOverFiles(capacityBytes: number, between: () => readonly TierOptions[]): BackendFactory {
  return {
    async create() {
      const folder = await mkdtemp(join(tmpdir(), "kvferry-tiered-"));
      const root = join(folder, "root");
      const arena = new HostArena({ capacityBytes, engine });
      const make = (memory: HostMemoryBackend): OffloadBackend => {
        const fast = { name: "memory", backend: memory, evictions: memory };
        return new TieredStore({
          tiers: [fast, ...between(), { name: "files", backend: new PosixBackend({ root, engine }) }],
        });
      };
      const memory = new HostMemoryBackend({ arena });
      const backend = make(memory);
      return {
        backend,
        reopen: async () => make(new HostMemoryBackend({ arena })),
        damage: damageHooks(root, backend, memory),
        async cleanup() {
          await arena.close();
          await rm(folder, { recursive: true, force: true });
        },
      };
    },
  };
}

function damageHooks(root: string, backend: OffloadBackend, memory: HostMemoryBackend): DamageHooks {
  const fileOf = async (key: Uint8Array): Promise<string> => {
    await memory.remove(packKeys([key]));
    const hex = keyHex(key);
    return join(root, backend.context.namespace.digestHex, "blocks", hex.slice(0, 2), `${hex}.kvb`);
  };
  return {
    async flip(key, byteOffset) {
      const file = await open(await fileOf(key), "r+");
      const byte = Buffer.alloc(1);
      await file.read(byte, 0, 1, byteOffset);
      byte[0] = (byte[0] as number) ^ 1;
      await file.write(byte, 0, 1, byteOffset);
      await file.close();
    },
    async truncate(key, bytes) {
      await truncate(await fileOf(key), bytes);
    },
    async leaveTempFile() {
      const writer = join(
        root,
        backend.context.namespace.digestHex,
        "writers",
        "gone.00000000-999999999-1-00112233aabb",
      );
      await mkdir(writer, { recursive: true });
      await writeFile(join(writer, "0"), Buffer.alloc(10_000, 7));
    },
    impossible: {
      noSpace: "the memory takes what the files cannot",
      denyPermission: "the memory takes what the files may not",
    },
  };
}

conformance({
  name: "tiered: host memory over files",
  test: { describe, it },
  factory: memoryOverFiles(MIB, () => []),
});

conformance({
  name: "tiered: host memory over a tier that always fails over files",
  test: { describe, it },
  factory: memoryOverFiles(MIB, () => {
    const failing = new FaultyBackend(new MemoryBackend(), { capabilities: { verifiesPayload: true } });
    for (const operation of ["store", "load", "lookup"] as const) failing.fail(operation, "IO");
    return [{ name: "failing", backend: failing }];
  }),
});

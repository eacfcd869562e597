import type { KvferryError } from "@kvferry/core";
import { createFileEngine, createRegion } from "@kvferry/native";
import {
  DirectSchedulerClient,
  type DirectWorker,
  DirectWorkerClient,
  type SchedulerConnectOptions,
  type WorkerConnectOptions,
} from "@kvferry/protocol";
import { describe, expect, it, onTestFinished } from "vitest";
import { openWorkerMemory } from "../src/direct/worker-memory.js";
import { addressOfSharedMemory } from "./direct-address.js";
import {
  CHUNK_BYTES,
  connectEngine,
  connectWorker,
  type EngineIdentity,
  layout,
  MEMORY_BYTES,
  newEngine,
  PART_BYTES,
  serveDirect,
} from "./direct-helpers.js";
import { namespace, openDescriptors, randomKeys, serve } from "./helpers.js";

function refused(code: string, field: string, message?: RegExp): object {
  const error = { code, context: expect.objectContaining({ field }) };
  return message === undefined ? error : { ...error, message: expect.stringMatching(message) };
}

async function helloOf(identity: EngineIdentity, changes: Partial<SchedulerConnectOptions>): Promise<void> {
  const client = await DirectSchedulerClient.connect({ ...identity, ...changes });
  await client.close();
}

describe("HELLO of direct mode", { timeout: 60_000 }, () => {
  it.each([
    ["INVALID_ARGUMENT", "direct.partBytes", { partBytes: CHUNK_BYTES }],
    ["INVALID_ARGUMENT", "direct.parts", { parts: 1 }],
    ["INVALID_ARGUMENT", "direct.partBytes", { partBytes: PART_BYTES - 1 }],
    ["INVALID_ARGUMENT", "namespace", { namespace: { ...namespace, tenant: "another" } }],
    ["INVALID_ARGUMENT", "blockBytes", { blockBytes: CHUNK_BYTES + 1 }],
    ["INVALID_ARGUMENT", "keyBytes", { keyBytes: 20 }],
  ])(
    "is refused with %s of '%s' where it does not fit, or says other than the engine's others",
    async (code, field, changes) => {
      const { socket } = await serveDirect();
      const { identity } = await connectEngine(socket);
      await expect(helloOf(identity, changes)).rejects.toMatchObject(refused(code, field));
      await helloOf(identity, {});
    },
  );

  it.each<readonly [string, string, Partial<WorkerConnectOptions>]>([
    ["INVALID_ARGUMENT", "direct.part", { part: 2 }],
    ["BUSY", "direct.part", { part: 0 }],
    ["INVALID_ARGUMENT", "direct.memory.memories", { fds: [] }],
    ["INVALID_ARGUMENT", "direct.partBytes", { blocksPerChunk: 3 }],
    ["INVALID_ARGUMENT", "direct.groups", { groups: [[{ tensor: 2, bytes: 16 }]] }],
    [
      "DEVICE_FAILED",
      "direct.memory",
      { memory: { kind: "process", memories: [{ address: 4096, bytes: 10_000_000 }] } },
    ],
  ])("of a worker is refused with %s of '%s'", async (code, field, changes) => {
    const { socket } = await serveDirect();
    const { identity } = await connectEngine(socket, 1);
    const before = openDescriptors();
    const connecting = connectWorker(identity, 1, changes);
    const error = await connecting.then(
      () => undefined,
      (thrown: unknown) => thrown as KvferryError,
    );
    expect(error).toMatchObject({ code });
    expect(String(error?.context.field)).toContain(field);
    await (await connectWorker(identity, 1)).client.ping();
    expect(openDescriptors() - before).toBeLessThan(12);
  });

  it("may come again for a part whose worker has gone", async () => {
    const { socket } = await serveDirect();
    const { identity, workers } = await connectEngine(socket);
    await workers[0]?.client.close();
    await connectWorker(identity, 0);
  });

  it("may come from any number of workers that only load the one part of a replicated layout", async () => {
    const { socket } = await serveDirect();
    const identity = newEngine(socket, { parts: 1 });
    await connectWorker(identity, 0);
    const loader = await connectWorker(identity, 0, { stores: false });
    await connectWorker(identity, 0, { stores: false });
    const gather = loader.client.gather(1, loader.pages.chunks(randomKeys(1)));
    await expect(gather).rejects.toMatchObject(refused("INVALID_ARGUMENT", "t"));
  });

  it("is refused by a server whose first tier is not memory, with what to write into its configuration", async () => {
    const { socket } = await serve();
    const says = /put '- { backend: memory, capacity: 32GiB }' first in 'tiers'/;
    await expect(helloOf(newEngine(socket), {})).rejects.toMatchObject(refused("UNSUPPORTED", "direct", says));
  });

  it("is refused for blocks that the staging memory is too small for, with the setting to change", async () => {
    const { socket } = await serveDirect({ direct: { stagingBytes: 12_288 } });
    const says = /set 'direct.stagingBytes' .* to 24576 or more/;
    await expect(helloOf(newEngine(socket), {})).rejects.toMatchObject(refused("INVALID_ARGUMENT", "blockBytes", says));
  });

  it("opens the memory of the process at the other end of the socket, never of another", async () => {
    const { socket } = await serveDirect();
    const identity = newEngine(socket);
    const client = await DirectWorkerClient.connect({
      ...identity,
      ...layout,
      part: 0,
      memory: { kind: "process", memories: [ownMemory()] },
    });
    await client.close();
    const engine = createFileEngine({ threads: 1 });
    onTestFinished(() => engine.close());
    const { engine: name, parts, partBytes } = identity;
    const memory = { kind: "process", memories: [{ address: 4096, bytes: MEMORY_BYTES }] } as const;
    const worker: DirectWorker = {
      ...{ role: "worker", engine: name, parts, partBytes, part: 0, stores: true, memory },
      ...layout,
    };
    const opening = openWorkerMemory(worker, { pid: 0, uid: 0, gid: 0 }, [], engine, []);
    const says = /not visible from this pid namespace.*use tier mode/;
    await expect(opening).rejects.toMatchObject(refused("UNSUPPORTED", "direct.memory", says));
  });
});

/** Where shared memory of this process lies in it. */
function ownMemory(): { address: number; bytes: number } {
  const own = createRegion({ rows: 1, rowBytes: MEMORY_BYTES });
  onTestFinished(() => own.close());
  return addressOfSharedMemory(MEMORY_BYTES);
}

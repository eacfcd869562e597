import { describe, expect, it } from "vitest";
import {
  DirectSchedulerClient,
  DirectWorkerClient,
  type StoredMessage,
  type WorkerConnectOptions,
} from "../src/index.js";
import { FakeServer, KEY_BYTES, keys, settled, welcome } from "./fake-server.js";
import { namespace, worker } from "./samples.js";

const direct = { instance: "arena-1", arenaBytes: 2 ** 30 };
const engine = { engine: "e", parts: 2, partBytes: 2048, namespace, keyBytes: KEY_BYTES, blockBytes: 4096 };

function directServer(fds: readonly number[] = []): FakeServer {
  const server = new FakeServer();
  server.onHello = () => server.say({ ...welcome, direct }, fds);
  return server;
}

async function connectWorker(
  server: FakeServer,
  changes: Partial<WorkerConnectOptions> = {},
): Promise<DirectWorkerClient> {
  const { part, memory, tensors, groups, blocksPerChunk } = worker;
  const layout = { part, memory, tensors, groups, blocksPerChunk };
  return DirectWorkerClient.connect({ transport: server.connector, ...engine, ...layout, ...changes });
}

const blocks = (count: number): Uint32Array => Uint32Array.from({ length: count * worker.blocksPerChunk }, (_, i) => i);

describe("the scheduler's client", () => {
  it("says who it is, holds, releases and hears what was stored", async () => {
    const server = directServer();
    const heard: StoredMessage[] = [];
    const client = await DirectSchedulerClient.connect({
      transport: server.connector,
      ...engine,
      onStored: (message) => heard.push(message),
    });
    expect(client.welcome.direct).toEqual(direct);
    expect(server.received[0]).toMatchObject({
      direct: { role: "scheduler", engine: "e", parts: 2, partBytes: 2048, workers: 2 },
    });
    const hold = client.hold(keys(2));
    const request = server.received[1] as { t: string; id: number };
    expect(request.t).toBe("hold");
    const offsets = Float64Array.of(8192, 2 ** 33);
    server.say({ t: "held", id: request.id, outcomes: Buffer.of(4, 4), codes: Buffer.of(0, 0), offsets, us: 3 });
    expect(await hold).toEqual({ outcomes: Buffer.of(4, 4), codes: Buffer.of(0, 0), offsets, us: 3 });
    expect(client.release(keys(2))).toBe(true);
    expect(server.received[2]).toEqual({ t: "release", keys: Buffer.alloc(2 * KEY_BYTES) });
    server.say({ t: "stored", ticket: 8, outcomes: Buffer.of(1), codes: Buffer.of(0) });
    expect(heard).toEqual([{ t: "stored", ticket: 8, outcomes: Buffer.of(1), codes: Buffer.of(0) }]);
    server.end();
    expect(client.release(keys(1))).toBe(false);
  });

  it("does not take an answer of another shape for a hold", async () => {
    const server = directServer();
    const client = await DirectSchedulerClient.connect({ transport: server.connector, ...engine });
    const hold = client.hold(keys(2));
    const { id } = server.received[1] as { id: number };
    server.say({
      t: "held",
      id,
      outcomes: Buffer.of(4, 4),
      codes: Buffer.of(0, 0),
      offsets: Float64Array.of(0),
      us: 3,
    });
    server.end();
    await expect(hold).rejects.toMatchObject({ code: "PROTOCOL" });
  });

  it("says what to do about a server that knows no direct mode", async () => {
    const server = new FakeServer();
    const connecting = DirectSchedulerClient.connect({ transport: server.connector, ...engine });
    await expect(connecting).rejects.toMatchObject({ code: "UNSUPPORTED" });
    expect(server.halfClosed).toBe(true);
  });
});

describe("a worker's client", () => {
  it("describes its memory, gets the arena, gathers and scatters", async () => {
    const server = directServer([55]);
    const client = await connectWorker(server, { fds: [7] });
    expect(client.arenaFd).toBe(55);
    expect(server.closedFds).toEqual([]);
    expect(server.sentFds[0]).toEqual([7]);
    expect(server.received[0]).toMatchObject({ direct: { ...worker, engine: "e", parts: 2, partBytes: 2048 } });
    const chunks = { keys: keys(2), groups: Uint32Array.of(0, 1), blocks: blocks(2) };
    const gathering = client.gather(9, chunks);
    const scattering = client.scatter(chunks);
    expect(server.received[1]).toMatchObject({ t: "gather", ticket: 9, groups: chunks.groups, blocks: chunks.blocks });
    expect(server.received[2]).toMatchObject({ t: "scatter", groups: chunks.groups, blocks: chunks.blocks });
    for (const request of server.received.slice(1)) {
      const { id } = request as { id: number };
      server.say({ t: "done", id, outcomes: Buffer.of(1, 2), codes: Buffer.of(0, 0), us: 1 });
    }
    expect([...(await gathering).outcomes, ...(await scattering).outcomes]).toEqual([1, 2, 1, 2]);
  });

  it("refuses chunks whose pages do not fit before anything is sent", async () => {
    const server = directServer([55]);
    const client = await connectWorker(server);
    const chunks = { keys: keys(2), groups: Uint32Array.of(0, 1), blocks: blocks(1) };
    await expect(client.gather(1, chunks)).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    expect(server.received).toHaveLength(1);
  });

  it("lets go of its memory only when the stream has ended", async () => {
    const server = directServer([55]);
    const client = await connectWorker(server);
    const gathering = client.gather(1, { keys: keys(1), groups: Uint32Array.of(0), blocks: blocks(1) });
    const closing = client.close();
    expect(await settled(gathering)).toBe(false);
    expect(await settled(closing)).toBe(false);
    server.end();
    await expect(gathering).rejects.toMatchObject({ code: "UNAVAILABLE" });
    await closing;
  });

  it("keeps no descriptor that it did not ask for", async () => {
    const server = directServer([55]);
    const client = await connectWorker(server);
    server.say({ t: "drain" }, [56, 57]);
    expect(server.closedFds).toEqual([56, 57]);
    server.end();
    await client.closed;
    expect(server.closedFds).toEqual([56, 57]); // the arena's is the caller's
    const refused = new FakeServer();
    refused.onHello = () => {
      refused.say({ t: "error", code: "BUSY", message: "full", context: {} }, [58]);
      refused.end();
    };
    await expect(connectWorker(refused)).rejects.toMatchObject({ code: "BUSY" });
    expect(refused.closedFds).toEqual([58]);
  });
});

import { describe, expect, it } from "vitest";
import { KvferryClient, nativeTransport, netTransport } from "../src/index.js";
import { FakeServer, KEY_BYTES, keys, settled } from "./fake-server.js";
import { namespace } from "./samples.js";

async function connected(): Promise<{ server: FakeServer; client: KvferryClient }> {
  const server = new FakeServer();
  const region = { rows: 8, rowBytes: 4096, fd: 77 };
  const client = await KvferryClient.connect({ transport: server.connector, namespace, keyBytes: KEY_BYTES, region });
  return { server, client };
}

describe("the client", () => {
  it("passes the region's descriptor with HELLO, and with nothing else", async () => {
    const { server, client } = await connected();
    void client.ping().catch(() => {});
    expect(server.sentFds).toEqual([[77], []]);
    expect(server.received[0]).toMatchObject({
      t: "hello",
      slots: 8,
      blockBytes: 4096,
      regions: [{ bytes: 8 * 4096 }],
      fragments: [{ offset: 0, stride: 4096, bytes: 4096 }],
    });
  });

  it("gives each answer to its own question, in whatever order they come", async () => {
    const { server, client } = await connected();
    const first = client.lookup(keys(2));
    const second = client.store(keys(1), [3]);
    const third = client.ping();
    const [, a, b, c] = server.received as { id: number }[];
    server.say({ t: "pong", id: c?.id as number });
    server.say({ t: "done", id: b?.id as number, outcomes: Uint8Array.of(1), codes: Uint8Array.of(0), us: 5 });
    server.say({ t: "states", id: a?.id as number, states: Uint8Array.of(1, 0) });
    await third;
    expect(await second).toMatchObject({ outcomes: Buffer.of(1), codes: Buffer.of(0), us: 5 });
    expect([...(await first)]).toEqual([1, 0]);
  });

  it("lets go of slots only when the stream has ended: not when it is told to close, not when the stream makes no sense", async () => {
    const { server, client } = await connected();
    const load = client.load(keys(1), [0]);
    server.bytes(Uint8Array.of(0, 0, 0, 0));
    expect(server.halfClosed).toBe(true);
    const closed = client.close();
    expect(await settled(load)).toBe(false);
    expect(await settled(closed)).toBe(false);
    server.end();
    await expect(load).rejects.toMatchObject({ code: "PROTOCOL" });
    await closed;
    await expect(client.ping()).rejects.toMatchObject({ code: "PROTOCOL" });
  });

  it("rejects what was under way when the server dies, and says so with a code that may be tried again", async () => {
    const { server, client } = await connected();
    const lookup = client.lookup(keys(1));
    server.end();
    await expect(lookup).rejects.toMatchObject({ code: "UNAVAILABLE", status: "temporary" });
    expect(client.connected).toBe(false);
    expect(await client.closed).toBeUndefined();
  });

  it("hands on what the server refused it with, and the field to mend", async () => {
    const server = new FakeServer();
    server.onHello = () => {
      server.say({ t: "error", code: "INVALID_ARGUMENT", message: "no model", context: { field: "model" } });
      server.end();
    };
    const region = { rows: 1, rowBytes: 4096, path: "/r" };
    const connecting = KvferryClient.connect({ transport: server.connector, namespace, keyBytes: KEY_BYTES, region });
    await expect(connecting).rejects.toMatchObject({ code: "INVALID_ARGUMENT", context: { field: "model" } });
  });

  it("cancels by CANCEL and still waits for the answer", async () => {
    const { server, client } = await connected();
    const abort = new AbortController();
    const load = client.load(keys(1), [0], { signal: abort.signal });
    abort.abort();
    const request = server.received[1] as { id: number };
    expect(server.received[2]).toMatchObject({ t: "cancel", target: request.id });
    expect(await settled(load)).toBe(false);
    server.say({ t: "done", id: request.id, outcomes: Uint8Array.of(0), codes: Uint8Array.of(6), us: 1 });
    expect((await load).codes[0]).toBe(6);
  });

  it("fails a request alone when the server answers it with an error", async () => {
    const { server, client } = await connected();
    const store = client.store(keys(1), [9]);
    const { id } = server.received[1] as { id: number };
    server.say({ t: "error", id, code: "BUSY", message: "full", context: {} });
    await expect(store).rejects.toMatchObject({ code: "BUSY" });
    expect(client.connected).toBe(true);
  });

  it("does not take an answer of another shape for success", async () => {
    const { server, client } = await connected();
    const load = client.load(keys(2), [0, 1]);
    const { id } = server.received[1] as { id: number };
    server.say({ t: "done", id, outcomes: Uint8Array.of(4), codes: Uint8Array.of(0), us: 1 });
    server.end();
    await expect(load).rejects.toMatchObject({ code: "PROTOCOL" });
  });

  it("hears of removed blocks and of the server's end", async () => {
    const server = new FakeServer();
    const heard: unknown[] = [];
    await KvferryClient.connect({
      transport: server.connector,
      namespace,
      keyBytes: KEY_BYTES,
      region: { rows: 1, rowBytes: 4096, fd: 3 },
      onRemoved: (removed, reason) => heard.push([removed.count, reason]),
      onDrain: () => heard.push("drain"),
    });
    server.say({ t: "removed", keys: new Uint8Array(2 * KEY_BYTES), reason: "evicted" });
    server.say({ t: "drain" });
    expect(heard).toEqual([[2, "evicted"], "drain"]);
    expect(server.received[0]).toMatchObject({ events: true });
  });

  it("gives up on a server that never answers HELLO", async () => {
    const server = new FakeServer();
    server.onHello = () => {};
    const connecting = KvferryClient.connect({
      transport: server.connector,
      namespace,
      keyBytes: KEY_BYTES,
      region: { rows: 1, rowBytes: 4096, fd: 3 },
      timeoutMs: 20,
    });
    await expect(connecting).rejects.toMatchObject({ code: "DEADLINE" });
  });

  it.each([
    ["net", netTransport],
    ["native", nativeTransport],
  ] as const)("says UNAVAILABLE where no server listens (%s)", async (_name, transport) => {
    const connecting = KvferryClient.connect({
      transport: transport("/tmp/kvferry-test-no-such-socket"),
      namespace,
      keyBytes: KEY_BYTES,
      region: { rows: 1, rowBytes: 4096, path: "/r" },
    });
    await expect(connecting).rejects.toMatchObject({ code: "UNAVAILABLE" });
  });
});

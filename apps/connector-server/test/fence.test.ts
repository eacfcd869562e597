import { Outcome } from "@kvferry/core";
import { createRegion } from "@kvferry/native";
import { describe, expect, it, onTestFinished } from "vitest";
import type { ServerConfig } from "../src/index.js";
import { GatedBackend } from "./gated-backend.js";
import {
  BLOCK_BYTES,
  connect,
  helloFor,
  RawClient,
  randomKeys,
  range,
  SLOTS,
  serve,
  type TestServer,
  until,
  welcomed,
} from "./helpers.js";

const keys = randomKeys(1).bytes;
const slots = Uint32Array.of(0);

async function gated(config: ServerConfig = {}): Promise<TestServer & { backend: GatedBackend }> {
  const backend = new GatedBackend();
  onTestFinished(() => backend.endAll());
  const served = await serve(config, { createBackend: () => backend });
  onTestFinished(() => backend.endAll()); // runs before the server is closed
  return { ...served, backend };
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

describe("the fence", () => {
  it("holds for a client that ends its side: what is under way is finished and answered, then the stream ends", async () => {
    const { socket, backend } = await gated();
    const { raw } = await welcomed(socket);
    raw.send({ t: "load", id: 1, keys, slots });
    await until(() => backend.waiting.length === 1);
    raw.connection.end();
    await pause(100);
    expect(raw.isClosed).toBe(false);
    expect(backend.waiting[0]?.signal?.aborted).toBe(false);
    backend.endAll();
    expect(await raw.next("done")).toMatchObject({ id: 1, outcomes: Uint8Array.of(Outcome.LOADED) });
    await raw.closed;
  });

  it("holds for a client that sends nonsense: the stream ends only after its I/O", async () => {
    const { socket, backend } = await gated();
    const { raw } = await welcomed(socket);
    raw.send({ t: "load", id: 1, keys, slots });
    await until(() => backend.waiting.length === 1);
    raw.connection.send(Uint8Array.of(0, 0, 0, 0));
    expect(await raw.next("error")).toMatchObject({ code: "PROTOCOL" });
    await pause(100);
    expect(raw.isClosed).toBe(false);
    expect(backend.waiting[0]?.signal?.aborted).toBe(true);
    backend.endAll();
    await raw.closed;
  });

  it("keeps the region mapped until the I/O of a vanished client has ended, then lets go of it", async () => {
    const { socket, backend, server } = await gated();
    const { raw } = await welcomed(socket);
    raw.send({ t: "store", id: 1, keys, slots });
    raw.send({ t: "store", id: 2, keys, slots });
    await until(() => backend.waiting.length === 2);
    raw.connection.close();
    await pause(50);
    expect((await server.status()).sessions).toHaveLength(1);
    backend.waiting.shift()?.end(); // its answer finds nobody
    await until(() => backend.waiting[0]?.signal?.aborted === true);
    expect((await server.status()).sessions).toHaveLength(1);
    backend.endAll();
    await until(async () => (await server.status()).sessions.length === 0);
  });

  it("is what KvferryClient.close waits for", async () => {
    const { socket, backend } = await gated();
    const { client } = await connect(socket);
    const load = client.load(randomKeys(1), [0]);
    await until(() => backend.waiting.length === 1);
    let closed = false;
    const closing = client.close().then(() => {
      closed = true;
    });
    await pause(50);
    expect(closed).toBe(false);
    backend.endAll();
    expect([...(await load).outcomes]).toEqual([Outcome.LOADED]);
    await closing;
  });
});

describe("requests", () => {
  it("that are cancelled are told to end, and answered when they have ended", async () => {
    const { socket, backend } = await gated();
    const { raw } = await welcomed(socket);
    raw.send({ t: "load", id: 1, keys, slots });
    await until(() => backend.waiting.length === 1);
    raw.send({ t: "cancel", id: 2, target: 1 });
    raw.send({ t: "cancel", id: 3, target: 999 });
    await until(() => backend.waiting[0]?.signal?.aborted === true);
    backend.endAll();
    expect(await raw.next("done")).toMatchObject({ id: 1 });
  });

  it("that were cancelled before they began end as FAILED(ABORTED) at once", async () => {
    const { socket, backend } = await gated({ limits: { operationsMax: 1 } });
    const { raw } = await welcomed(socket);
    raw.send({ t: "store", id: 1, keys, slots });
    raw.send({ t: "store", id: 2, keys, slots });
    raw.send({ t: "cancel", id: 3, target: 2 });
    expect(await raw.next("done")).toMatchObject({
      id: 2,
      outcomes: Uint8Array.of(Outcome.FAILED),
      codes: Uint8Array.of(6),
    });
    expect(backend.waiting).toHaveLength(1);
    backend.endAll();
    expect(await raw.next("done")).toMatchObject({ id: 1 });
  });

  it("beyond requestsMax, or beyond their bytes, are answered BUSY; the others go on", async () => {
    const { socket, backend } = await gated({ limits: { requestsMax: 2 } });
    const { raw } = await welcomed(socket);
    for (const id of [1, 2, 3]) raw.send({ t: "store", id, keys, slots });
    expect(await raw.next("error")).toMatchObject({ id: 3, code: "BUSY" });
    raw.send({ t: "ping", id: 4 });
    expect(await raw.next("pong")).toBeDefined();
    await until(() => backend.waiting.length === 2);
    backend.endAll();
    await raw.next("done");
    await raw.next("done");
    raw.send({ t: "lookup", id: 5, keys });
    expect(await raw.next("states")).toMatchObject({ id: 5 });

    const small = await gated({ limits: { requestBytesMax: 1000 } });
    const { raw: other } = await welcomed(small.socket);
    other.send({ t: "lookup", id: 1, keys: randomKeys(100).bytes });
    expect(await other.next("error")).toMatchObject({ id: 1, code: "BUSY" });
  });

  it("must not use an id that is in use", async () => {
    const { socket, backend } = await gated();
    const { raw } = await welcomed(socket);
    raw.send({ t: "store", id: 1, keys, slots });
    await until(() => backend.waiting.length === 1);
    raw.send({ t: "load", id: 1, keys, slots });
    expect(await raw.next("error")).toMatchObject({ code: "PROTOCOL", context: { field: "id" } });
    backend.endAll();
    await raw.closed;
  });

  it("that take longer than the tier's deadline are told to end", async () => {
    const { socket, backend } = await gated({ tiers: [{ backend: "memory", deadlineMs: 30 }] });
    const { raw } = await welcomed(socket);
    raw.send({ t: "load", id: 1, keys, slots });
    await until(() => backend.waiting[0]?.signal?.aborted === true);
    backend.endAll();
    expect(await raw.next("done")).toMatchObject({ id: 1 });
  });
});

describe("removed blocks", () => {
  it("are told to those who asked for it", async () => {
    const { socket, backend } = await gated();
    const heard: unknown[] = [];
    await connect(socket, { onRemoved: (removed, reason) => heard.push([removed.count, reason]) });
    const { raw } = await welcomed(socket);
    backend.evict(3);
    raw.send({ t: "ping", id: 1 });
    await raw.next("pong");
    await until(() => heard.length > 0);
    expect(heard).toEqual([[3, "evicted"]]);
    backend.evict(70_000); // more than one message takes
    await until(() => heard.length > 2);
    expect(heard.slice(1)).toEqual([
      [65_536, "evicted"],
      [4464, "evicted"],
    ]);
    expect(raw.received).toEqual([]);
  });
});

describe("draining", () => {
  it("says so, refuses new stores and loads, answers what it has, and ends", async () => {
    const { socket, server, backend } = await gated();
    const { raw } = await welcomed(socket);
    raw.send({ t: "store", id: 1, keys, slots });
    await until(() => backend.waiting.length === 1);
    const closing = server.close();
    expect(await raw.next("drain")).toEqual({ t: "drain" });
    raw.send({ t: "load", id: 2, keys, slots });
    expect(await raw.next("error")).toMatchObject({ id: 2, code: "UNAVAILABLE" });
    expect(() => new RawClient(socket)).toThrow(expect.objectContaining({ code: "UNAVAILABLE" }));
    backend.endAll();
    expect(await raw.next("done")).toMatchObject({ id: 1 });
    await raw.closed;
    expect(await closing).toBe(true);
    expect(backend.closed).toBe(true);
  });

  it("does not wait longer than it may, and says that I/O is still under way", async () => {
    const { socket, server, backend } = await gated({ drainTimeoutMs: 50 });
    const { raw } = await welcomed(socket);
    raw.send({ t: "store", id: 1, keys, slots });
    await until(() => backend.waiting.length === 1);
    expect(await server.close()).toBe(false);
    expect(backend.waiting[0]?.signal?.aborted).toBe(true);
    expect(raw.isClosed).toBe(false); // the fence holds even now
  });

  it("turns away who has not said HELLO yet", async () => {
    const { socket, server } = await gated();
    const raw = new RawClient(socket);
    await until(async () => (await server.status()).sessions.length === 1);
    const closing = server.close();
    expect(await raw.next("error")).toMatchObject({ code: "UNAVAILABLE" });
    await raw.closed;
    await closing;
  });
});

describe("namespaces", () => {
  it("are opened once, shared, and closed some time after the last engine has gone", async () => {
    const backends: GatedBackend[] = [];
    const createBackend = (): GatedBackend => {
      const backend = new GatedBackend();
      backends.push(backend);
      return backend;
    };
    const { socket, server } = await serve({ namespaceIdleMs: 50 }, { createBackend });
    const clients = await Promise.all(range(5).map(() => welcomed(socket)));
    expect(backends).toHaveLength(1);
    for (const { raw } of clients) raw.connection.close();
    await until(() => backends[0]?.closed === true);
    expect((await server.status()).namespaces).toEqual([]);
    await welcomed(socket);
    expect(backends).toHaveLength(2);
  });

  it("beyond namespacesMax take the place of an idle one, or are refused", async () => {
    const backends: GatedBackend[] = [];
    const createBackend = (): GatedBackend => {
      const backend = new GatedBackend();
      backends.push(backend);
      return backend;
    };
    const { socket, server } = await serve({ limits: { namespacesMax: 1 } }, { createBackend });
    const tenant = (name: string) => ({ namespace: { ...helloFor().namespace, tenant: name } });
    const { raw } = await welcomed(socket, tenant("a"));
    await expect(welcomed(socket, tenant("b"))).rejects.toThrow(/BUSY/);
    raw.connection.close();
    await until(async () => (await server.status()).sessions.length === 0);
    await welcomed(socket, tenant("b"));
    expect(backends.map(({ closed }) => closed)).toEqual([true, false]);
  });

  it("that cannot be opened are refused with the reason, and tried again by the next engine", async () => {
    let failing = true;
    class Failing extends GatedBackend {
      protected override async _open(): Promise<void> {
        if (failing) throw Object.assign(new Error("no space left"), { code: "ENOSPC" });
      }
    }
    const { socket } = await serve({}, { createBackend: () => new Failing() });
    const region = createRegion({ rows: SLOTS, rowBytes: BLOCK_BYTES });
    const raw = new RawClient(socket);
    raw.send(helloFor(), [region.fd]);
    expect(await raw.next("error")).toMatchObject({ code: "NO_SPACE" });
    await raw.closed;
    failing = false;
    await welcomed(socket);
    region.close();
  });
});

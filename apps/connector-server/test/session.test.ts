import { spawn } from "node:child_process";
import { chmodSync, closeSync, ftruncateSync, openSync, truncateSync } from "node:fs";
import { connect as connectNet } from "node:net";
import { join } from "node:path";
import { LookupState, type NamespaceFields, Outcome, outcomeCode } from "@kvferry/core";
import { createRegion, mapRegionPath } from "@kvferry/native";
import { encodeMessage, KvferryClient, netTransport } from "@kvferry/protocol";
import { describe, expect, it } from "vitest";
import {
  BLOCK_BYTES,
  connect,
  fill,
  helloFor,
  holds,
  KEY_BYTES,
  namespace,
  openDescriptors,
  RawClient,
  randomKeys,
  range,
  SLOTS,
  scratch,
  serve,
  until,
  welcomed,
} from "./helpers.js";

describe("an engine", () => {
  it("stores blocks, finds them and loads them back, byte for byte", async () => {
    const { socket } = await serve();
    const { client, region } = await connect(socket);
    const keys = randomKeys(16);
    expect([...(await client.lookup(keys))]).toEqual(new Array(16).fill(LookupState.MISS));
    fill(region, keys, range(16));
    const stored = await client.store(keys, range(16));
    expect([...stored.outcomes]).toEqual(new Array(16).fill(Outcome.STORED));
    expect(stored.us).toBeGreaterThan(0);
    expect([...(await client.lookup(keys))]).toEqual(new Array(16).fill(LookupState.HIT));
    const loaded = await client.load(keys, range(16, 32));
    expect([...loaded.outcomes]).toEqual(new Array(16).fill(Outcome.LOADED));
    for (let i = 0; i < 16; i++) expect(holds(region, keys, i, 32 + i)).toBe(true);
  });

  it("finds what another engine of the same namespace stored, and nothing of other namespaces", async () => {
    const { socket, server } = await serve();
    const a = await connect(socket);
    const b = await connect(socket);
    const other = await connect(socket, { namespace: { ...namespace, weights: "ff".repeat(16) } });
    const tenant = await connect(socket, { namespace: { ...namespace, tenant: "b" } });
    const keys = randomKeys(4);
    fill(a.region, keys, range(4));
    await a.client.store(keys, range(4));
    const result = await b.client.load(keys, range(4));
    expect([...result.outcomes]).toEqual(new Array(4).fill(Outcome.LOADED));
    for (let i = 0; i < 4; i++) expect(holds(b.region, keys, i, i)).toBe(true);
    for (const { client } of [other, tenant]) {
      expect([...(await client.lookup(keys))]).toEqual([0, 0, 0, 0]);
      expect([...(await client.load(keys, range(4))).outcomes]).toEqual(new Array(4).fill(Outcome.MISS));
    }
    const status = await server.status();
    expect(status.namespaces.map(({ sessions }) => sessions).sort()).toEqual([1, 1, 2]);
    expect(a.client.welcome.digest).toBe(b.client.welcome.digest);
    expect(a.client.welcome.digest).not.toBe(other.client.welcome.digest);
  });

  it("finds blocks again after the server was started anew", async () => {
    const first = await serve();
    const keys = randomKeys(4);
    const a = await connect(first.socket);
    fill(a.region, keys, range(4));
    await a.client.store(keys, range(4));
    await first.server.close();
    const second = await serve({ tiers: [{ backend: "posix", root: first.root }] });
    const b = await connect(second.socket);
    expect([...(await b.client.load(keys, range(4))).outcomes]).toEqual(new Array(4).fill(Outcome.LOADED));
    expect(holds(b.region, keys, 3, 3)).toBe(true);
  });

  it("is served by the memory tier in the same way", async () => {
    const { socket } = await serve({ tiers: [{ backend: "memory", capacity: "1MiB" }] });
    const { client, region } = await connect(socket);
    const keys = randomKeys(4);
    fill(region, keys, range(4));
    await client.store(keys, range(4));
    expect([...(await client.load(keys, range(4, 8))).outcomes]).toEqual(new Array(4).fill(Outcome.LOADED));
    expect(holds(region, keys, 2, 10)).toBe(true);
  });

  it("of vLLM is served from the folders of vLLM's own tier", async () => {
    const vllmFs = { base: "facebook_opt-125m_0123456789ab", rank: 0, config: "{}" };
    const root = join(scratch(), "kv");
    const { socket } = await serve({ tiers: [{ backend: "posix", root, layout: "vllm-fs" }] });
    const a = await connect(socket, { vllmFs });
    const keys = randomKeys(2);
    fill(a.region, keys, range(2));
    expect([...(await a.client.store(keys, range(2))).outcomes]).toEqual([Outcome.STORED, Outcome.STORED]);
    expect([...(await a.client.load(keys, range(2, 2))).outcomes]).toEqual([Outcome.LOADED, Outcome.LOADED]);
    await expect(connect(socket, { namespace: { ...namespace, tenant: "b" } })).rejects.toMatchObject({
      code: "CONFIG_INVALID",
      context: { field: "vllmFs" },
    });
    await expect(connect(socket, { vllmFs: { ...vllmFs, rank: 1 } })).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
      context: { field: "vllmFs.rank" },
    });
  });

  it("may give its region by a path when it cannot pass descriptors", async () => {
    const { socket, folder } = await serve();
    const path = join(folder, "region");
    const fd = openSync(path, "wx+");
    ftruncateSync(fd, SLOTS * BLOCK_BYTES);
    closeSync(fd);
    const region = mapRegionPath(path, { rows: SLOTS, rowBytes: BLOCK_BYTES });
    const client = await KvferryClient.connect({
      transport: netTransport(socket),
      namespace,
      keyBytes: KEY_BYTES,
      region: { rows: SLOTS, rowBytes: BLOCK_BYTES, path },
    });
    const keys = randomKeys(2);
    fill(region, keys, [0, 1]);
    await client.store(keys, [0, 1]);
    await client.load(keys, [2, 3]);
    expect(holds(region, keys, 1, 3)).toBe(true);
    await client.close();
    region.close();
  });
});

describe("HELLO", () => {
  const without = (field: keyof NamespaceFields): Record<string, unknown> => {
    const { [field]: _left, ...rest } = namespace;
    return rest;
  };

  it.each(Object.keys(namespace) as (keyof NamespaceFields)[])(
    "without the namespace's %s is refused by that name",
    async (field) => {
      const { socket } = await serve();
      const raw = new RawClient(socket);
      raw.send(helloFor({ namespace: without(field) }));
      const error = await raw.next("error");
      expect(error).toMatchObject({ code: "INVALID_ARGUMENT", context: { field } });
      expect(error?.message).toContain(field);
      await raw.closed;
    },
  );

  it.each([
    ["fragments[0].bytes", { fragments: [{ region: 0, offset: 0, stride: BLOCK_BYTES, bytes: BLOCK_BYTES - 1 }] }],
    ["fragments[0].stride", { fragments: [{ region: 0, offset: 0, stride: 4096, bytes: BLOCK_BYTES }] }],
    ["fragments[0].offset", { fragments: [{ region: 0, offset: 1, stride: BLOCK_BYTES, bytes: BLOCK_BYTES }] }],
    ["slots", { slots: SLOTS + 1 }],
    ["slots", { fragments: [{ region: 0, offset: 4096, stride: BLOCK_BYTES, bytes: BLOCK_BYTES }] }],
    ["regions[0].bytes", { regions: [{ bytes: SLOTS * BLOCK_BYTES + 4096 }] }],
  ] as const)("is refused where region and slots do not fit: %s", async (field, changes) => {
    const { socket } = await serve();
    const region = createRegion({ rows: SLOTS, rowBytes: BLOCK_BYTES });
    const before = openDescriptors();
    const raw = new RawClient(socket);
    raw.send(helloFor(changes as never), [region.fd]);
    expect(await raw.next("error")).toMatchObject({ code: "INVALID_ARGUMENT", context: { field } });
    await raw.closed;
    await until(() => openDescriptors() <= before);
    region.close();
  });

  it.each([
    ["no path", undefined, "INVALID_ARGUMENT"],
    ["a relative path", "region", "INVALID_ARGUMENT"],
    ["no such file", "/nowhere/region", "INVALID_ARGUMENT"],
    ["a device", "/dev/zero", "INVALID_ARGUMENT"],
    ["a folder", "/tmp", "INVALID_ARGUMENT"],
  ])("without a descriptor is refused with %s", async (_name, path, code) => {
    const { socket } = await serve();
    const before = openDescriptors();
    const raw = new RawClient(socket);
    const bytes = SLOTS * BLOCK_BYTES;
    raw.send(helloFor({ regions: [path === undefined ? { bytes } : { bytes, path }] }));
    expect(await raw.next("error")).toMatchObject({ code, context: { field: "regions[0].path" } });
    await raw.closed;
    await until(() => openDescriptors() <= before);
  });

  it("with other sizes than the namespace was opened with is refused", async () => {
    const { socket } = await serve();
    await connect(socket);
    await expect(connect(socket, { blockBytes: 8192 })).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
      context: { field: "blockBytes" },
    });
  });

  it("must come first, once, and in time", async () => {
    const { socket } = await serve({ limits: { helloTimeoutMs: 50 } });
    const early = new RawClient(socket);
    early.send({ t: "ping", id: 1 });
    expect(await early.next("error")).toMatchObject({ code: "PROTOCOL" });
    const silent = new RawClient(socket);
    expect(await silent.next("error")).toMatchObject({ code: "DEADLINE" });
    await silent.closed;
    const { raw } = await welcomed(socket);
    raw.send(helloFor());
    expect(await raw.next("error")).toMatchObject({ code: "PROTOCOL" });
    await raw.closed;
  });

  it("closes the descriptors that it does not use", async () => {
    const { socket } = await serve();
    const before = openDescriptors();
    const region = createRegion({ rows: SLOTS, rowBytes: BLOCK_BYTES });
    const raw = new RawClient(socket);
    raw.send(helloFor(), new Array(10).fill(region.fd));
    await raw.next("welcome");
    raw.send({ t: "ping", id: 1 }, new Array(10).fill(region.fd));
    await raw.next("pong");
    raw.connection.close();
    region.close();
    // The namespace stays open for a while, with a few descriptors of its own.
    await until(() => openDescriptors() <= before + 4);
  });

  it("beyond the number of connections is turned away", async () => {
    const { socket } = await serve({ limits: { connectionsMax: 1 } });
    await connect(socket);
    const raw = new RawClient(socket);
    expect(await raw.next("error")).toMatchObject({ code: "BUSY" });
    await raw.closed;
  });

  it("may come in pieces, with the requests right behind it", async () => {
    const { socket } = await serve();
    const region = createRegion({ rows: SLOTS, rowBytes: BLOCK_BYTES });
    const raw = new RawClient(socket);
    const stream = Buffer.concat([encodeMessage(helloFor()), encodeMessage({ t: "ping", id: 7 })]);
    raw.connection.send(stream.subarray(0, 1), [region.fd]);
    for (let at = 1; at < stream.length; at += 97) raw.connection.send(stream.subarray(at, at + 97));
    expect(await raw.next("welcome")).toBeDefined();
    expect(await raw.next("pong")).toEqual({ t: "pong", id: 7 });
    raw.connection.close();
    region.close();
  });
});

describe("a client that does wrong", () => {
  it("by naming slots outside of its region fails that request and goes on", async () => {
    const { socket } = await serve();
    const { raw } = await welcomed(socket);
    const { bytes: keys } = randomKeys(2);
    for (const t of ["store", "load"] as const) {
      raw.send({ t, id: 1, keys, slots: Uint32Array.of(0, SLOTS) });
      expect(await raw.next("error")).toMatchObject({ id: 1, code: "INVALID_ARGUMENT", context: { field: "slots" } });
    }
    raw.send({ t: "ping", id: 2 });
    expect(await raw.next("pong")).toBeDefined();
  });

  it.each([
    ["keys that are no multiple of keyBytes", new Uint8Array(KEY_BYTES + 1), Uint32Array.of(0)],
    ["fewer slots than keys", new Uint8Array(KEY_BYTES * 2), Uint32Array.of(0)],
    ["more keys than a batch takes", new Uint8Array(KEY_BYTES * 4097), new Uint32Array(4097)],
  ])("by sending %s fails that request and goes on", async (_name, keys, slots) => {
    const { socket } = await serve();
    const { raw } = await welcomed(socket);
    raw.send({ t: "store", id: 1, keys, slots });
    expect(await raw.next("error")).toMatchObject({ id: 1, code: "INVALID_ARGUMENT" });
    raw.send({ t: "ping", id: 2 });
    expect(await raw.next("pong")).toBeDefined();
  });

  it("by truncating its region loses its own jobs, and nobody else's", async () => {
    const { socket, folder } = await serve();
    const bystander = await connect(socket);
    const path = join(folder, "region");
    const fd = openSync(path, "wx+");
    ftruncateSync(fd, SLOTS * BLOCK_BYTES);
    const raw = new RawClient(socket);
    raw.send(helloFor(), [fd]);
    await raw.next("welcome");
    const keys = randomKeys(SLOTS);
    raw.send({ t: "store", id: 1, keys: keys.bytes, slots: Uint32Array.from(range(SLOTS)) });
    truncateSync(path, 0);
    raw.send({ t: "store", id: 2, keys: randomKeys(SLOTS).bytes, slots: Uint32Array.from(range(SLOTS)) });
    await raw.next("done");
    const second = await raw.next("done");
    if (second === undefined) throw new Error("not answered");
    const codes = new Set(range(SLOTS).map((i) => outcomeCode(second, i)));
    expect([...second.outcomes]).toEqual(new Array(SLOTS).fill(Outcome.FAILED));
    expect([...codes]).toEqual(["REGION_GONE"]);
    const own = randomKeys(4);
    fill(bystander.region, own, range(4));
    expect([...(await bystander.client.store(own, range(4))).outcomes]).toEqual(new Array(4).fill(Outcome.STORED));
    raw.connection.close();
    closeSync(fd);
  });

  it("by leaving its answers unread is ended, with bounded memory", async () => {
    const { socket, server } = await serve({ limits: { sendBufferBytesMax: "64KiB" } });
    const deaf = connectNet(socket);
    deaf.pause();
    const path = join(scratch(), "region");
    const fd = openSync(path, "wx+");
    ftruncateSync(fd, SLOTS * BLOCK_BYTES);
    deaf.write(encodeMessage(helloFor({ regions: [{ bytes: SLOTS * BLOCK_BYTES, path }] })));
    await until(async () => (await server.status()).namespaces.some(({ sessions }) => sessions === 1));
    deaf.on("error", () => {});
    const pings = Buffer.concat(range(1000).map((id) => Buffer.from(encodeMessage({ t: "ping", id }))));
    const timer = setInterval(() => deaf.writable && deaf.write(pings), 1);
    await until(async () => (await server.status()).sessions.length === 0);
    clearInterval(timer);
    deaf.destroy();
    closeSync(fd);
  });

  it.runIf(process.getuid?.() === 0)(
    "by being another user is refused, even where the socket's mode lets it in",
    async () => {
      const { socket, folder } = await serve();
      chmodSync(folder, 0o755);
      chmodSync(socket, 0o666);
      const script = `
      const socket = require("node:net").connect(process.argv[1]);
      socket.on("data", (bytes) => process.stdout.write(bytes.toString("latin1")));
      socket.on("error", (error) => process.stdout.write(error.message));`;
      const child = spawn(process.execPath, ["-e", script, socket], { uid: 65_534, gid: 65_534, cwd: "/" });
      let output = "";
      child.stdout.on("data", (bytes) => {
        output += bytes;
      });
      await new Promise((resolve) => child.on("close", resolve));
      expect(output).toContain("PERMISSION");
      expect(output).toContain("not of uid 65534");
    },
  );

  it("by using an id twice, or by a bad frame, loses its connection alone", async () => {
    const { socket } = await serve();
    const bystander = await connect(socket);
    const { raw } = await welcomed(socket);
    raw.connection.send(Uint8Array.of(0, 0, 0, 0));
    expect(await raw.next("error")).toMatchObject({ code: "PROTOCOL" });
    await raw.closed;
    await bystander.client.ping();
  });
});

import { spawn } from "node:child_process";
import { existsSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { afterEach, expect, test, vi } from "vitest";
import {
  type ConnectionHandlers,
  closeFd,
  connectUnix,
  createRegion,
  listenUnix,
  mapRegionFd,
  type UnixConnection,
  type UnixServer,
} from "../src/index.js";
import { addonPath, codeOf, scratch } from "./helpers.js";

const servers: UnixServer[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) server.close();
});

function listen(path: string, onConnection: (c: UnixConnection) => ConnectionHandlers | undefined, sendMax?: number) {
  const server = listenUnix(path, {
    onConnection,
    onError: (error) => {
      throw error;
    },
    ...(sendMax === undefined ? {} : { sendBufferBytesMax: sendMax }),
  });
  servers.push(server);
  return server;
}

const openDescriptors = (): number => readdirSync("/proc/self/fd").length;
const quiet = (): ConnectionHandlers => ({ onData() {}, onClose() {} });

/** What a peer does: collects what comes until the end. */
function collector(onData?: (bytes: Uint8Array, fds: readonly number[]) => void) {
  const parts: Uint8Array[] = [];
  let settle: (error: Error | undefined) => void;
  const closed = new Promise<Error | undefined>((done) => {
    settle = done;
  });
  const handlers: ConnectionHandlers = {
    onData(bytes, fds) {
      parts.push(bytes);
      onData?.(bytes, fds);
    },
    onClose: (error) => settle(error),
  };
  return { handlers, closed, text: () => Buffer.concat(parts).toString() };
}

test("bytes go both ways, in order, whatever their size", async () => {
  const path = join(scratch(), "s");
  const size = 5_000_000;
  listen(path, (connection) => ({ onData: (bytes) => void connection.send(bytes), onClose() {} }));
  let received = 0;
  let wrong = 0;
  let finished: () => void;
  const all = new Promise<void>((done) => {
    finished = done;
  });
  const client = connectUnix(path, {
    onData(bytes) {
      for (const byte of bytes) if (byte !== received++ % 251) wrong++;
      if (received === size) finished();
    },
    onClose() {},
  });
  expect(client.peer).toMatchObject({ pid: process.pid, uid: process.getuid?.() });
  expect(client.send(Uint8Array.from({ length: size }, (_, i) => i % 251))).toBe(true);
  expect(client.bufferedBytes).toBeGreaterThan(0);
  await all;
  expect(wrong).toBe(0);
  expect(client.bufferedBytes).toBe(0);
  client.close();
  expect(client.send(Buffer.from("x"))).toBe(false);
});

test("descriptors arrive with the bytes they were sent with", async () => {
  const path = join(scratch(), "s");
  const region = createRegion({ rows: 2, rowBytes: 4096 });
  const got: { text: string; first: number }[] = [];
  listen(path, (connection) => ({
    onData(bytes, fds) {
      for (const fd of fds) {
        const mapped = mapRegionFd(fd, { rows: 2, rowBytes: 4096 });
        mapped.bytes[0]!++;
        got.push({ text: Buffer.from(bytes).toString(), first: mapped.bytes[4096]! });
        mapped.close();
      }
      connection.close();
    },
    onClose() {},
  }));
  region.bytes[4096] = 9;
  const { handlers, closed } = collector();
  connectUnix(path, handlers).send(Buffer.from("with"), [region.fd]);
  await closed;
  expect(got).toEqual([{ text: "with", first: 9 }]);
  expect(region.bytes[0]).toBe(1);
  region.close();
});

test("another process reaches the region, and its end closes the connection", async () => {
  const path = join(scratch(), "s");
  const region = createRegion({ rows: 1, rowBytes: 4096 });
  const { handlers, closed, text } = collector();
  const peers: number[] = [];
  listen(path, (connection) => {
    peers.push(connection.peer.pid);
    connection.send(Buffer.from("region"), [region.fd]);
    return handlers;
  });
  const script = `
    const native = require(${JSON.stringify(addonPath)});
    const connection = native.connectUnix(${JSON.stringify(path)}, {
      onData(bytes, fds) {
        const region = native.mapRegionFd(fds[0], { rows: 1, rowBytes: 4096 });
        region.bytes.fill(0x77);
        connection.send(Buffer.from("done"));
        setTimeout(() => process.kill(process.pid, "SIGKILL"), 20);
      },
      onClose() {},
    });`;
  const child = spawn(process.execPath, ["-e", script], { stdio: "inherit" });
  await closed;
  expect(text()).toBe("done");
  expect(peers).toEqual([child.pid]);
  expect(region.bytes.every((byte) => byte === 0x77)).toBe(true);
  region.close();
});

test("with onEnd the connection stays open until it is closed: its end is the fence", async () => {
  const path = join(scratch(), "s");
  const events: string[] = [];
  listen(path, (connection) => ({
    onData() {},
    onEnd() {
      events.push("end");
      setTimeout(() => {
        events.push("I/O ended");
        connection.send(Buffer.from("bye"));
        connection.close();
      }, 30);
    },
    onClose: () => void events.push("server closed"),
  }));
  const { handlers, closed, text } = collector();
  const client = connectUnix(path, handlers);
  client.send(Buffer.from("x"));
  client.end();
  expect(client.send(Buffer.from("y"))).toBe(false);
  expect(await closed).toBeUndefined();
  events.push("client closed");
  expect(text()).toBe("bye");
  expect(events.indexOf("I/O ended")).toBeLessThan(events.indexOf("client closed"));
  await vi.waitFor(() => expect(events).toContain("server closed"));
  expect(events.filter((event) => event === "end").length).toBe(1);
});

test("a peer that does not read is BUSY and costs bounded memory", async () => {
  const path = join(scratch(), "s");
  let server: UnixConnection | undefined;
  listen(
    path,
    (connection) => {
      server = connection;
      return quiet();
    },
    1_000_000,
  );
  const handlers = quiet();
  const client = connectUnix(path, handlers);
  await vi.waitFor(() => expect(server).toBeDefined());
  const chunk = new Uint8Array(300_000);
  const codes = Array.from({ length: 200 }, () => codeOf(() => server!.send(chunk)));
  // The loop has not turned, so the client has read nothing yet.
  expect(codes).toContain("BUSY");
  expect(server!.bufferedBytes).toBeLessThanOrEqual(1_000_000);
  client.close();
});

test("a refused or failing peer is closed, and leaks nothing", async () => {
  const path = join(scratch(), "s");
  listen(path, () => undefined);
  const first = collector();
  connectUnix(path, first.handlers);
  await first.closed;
  const before = openDescriptors();
  for (let i = 0; i < 20; i++) {
    const each = collector();
    connectUnix(path, each.handlers);
    await each.closed;
  }
  expect(openDescriptors()).toBeLessThanOrEqual(before + 1);
});

test("descriptors nobody asked for can be closed", async () => {
  const path = join(scratch(), "s");
  const received: number[] = [];
  listen(path, (connection) => ({
    onData(_, fds) {
      received.push(fds.length);
      for (const fd of fds) closeFd(fd);
      connection.close();
    },
    onClose() {},
  }));
  const { handlers, closed } = collector();
  const client = connectUnix(path, handlers);
  expect(codeOf(() => client.send(Buffer.from("x"), new Array(17).fill(0)))).toBe("INVALID_ARGUMENT");
  expect(codeOf(() => client.send(Buffer.from("x"), [98765]))).toBe("INVALID_ARGUMENT");
  client.send(Buffer.from("x"), new Array(16).fill(0));
  await closed;
  expect(received).toEqual([16]);
});

test("one server listens on a path; a stale socket is replaced", async () => {
  const path = join(scratch(), "s");
  const server = listen(path, quiet);
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(codeOf(() => listen(path, quiet))).toBe("BUSY");
  server.close();
  server.close();
  expect(existsSync(path)).toBe(false);
  const foreign = createServer().listen(path);
  await new Promise((done) => foreign.on("listening", done));
  expect(codeOf(() => listen(path, quiet))).toBe("BUSY");
  await new Promise((done) => foreign.close(done));
  writeFileSync(path, "a file");
  expect(codeOf(() => listen(path, quiet))).toBe("INVALID_ARGUMENT");
  expect(codeOf(() => connectUnix(join(scratch(), "none"), quiet()))).toBe("UNAVAILABLE");
});

test("connections live on when their server stops listening", async () => {
  const path = join(scratch(), "s");
  const server = listen(path, (connection) => ({ onData: (bytes) => void connection.send(bytes), onClose() {} }));
  const { handlers, text } = collector();
  const client = connectUnix(path, handlers);
  client.send(Buffer.from("1"));
  await vi.waitFor(() => expect(text()).toBe("1"));
  server.close();
  client.send(Buffer.from("2"));
  await vi.waitFor(() => expect(text()).toBe("12"));
  client.close();
});

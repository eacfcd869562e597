/** Processes and workers that end while I/O is under way: they must end, and end well. */
import { spawnSync } from "node:child_process";
import { expect, test } from "vitest";
import { addonPath, scratch } from "./helpers.js";

/** Starts an engine, a store, a region, a device and a socket, and keeps all of them busy. */
const busy = `
  const native = require(${JSON.stringify(addonPath)});
  async function start(folder) {
    const rows = 256, rowBytes = 65536;
    const region = native.createRegion({ rows, rowBytes });
    const engine = new native.FileEngine(4, 65536);
    const store = await engine.openStore({
      blocksFolder: folder + "/b", tmpFolder: folder + "/t", quarantineFolder: folder + "/q", quarantineFilesMax: 1,
      layout: "kvferry", namespaceDigest: new Uint8Array(32), writer: "w", keyBytes: 8, blockBytes: rowBytes,
      fileMode: 0o600, folderMode: 0o700, fsync: false, adopt: false, direct: "auto", publish: "auto" });
    const keys = new Uint8Array(rows * 8);
    for (let i = 0; i < rows; i++) { keys[8 * i] = i; keys[8 * i + 1] = i >> 8; }
    const slots = Uint32Array.from({ length: rows }, (_, i) => i);
    const handlers = { onData() {}, onClose() {} };
    const server = native.listenUnix(folder + "/s", { onConnection: () => handlers, onError() {} });
    const connection = native.connectUnix(folder + "/s", handlers);
    connection.send(Buffer.alloc(10_000_000));
    const memory = new Uint8Array(rows * rowBytes);
    const promises = [region.bytes, memory].flatMap((bytes) => [false, true].map((load) =>
      store.transfer(load, keys, bytes, rowBytes, slots, load ? "load" : "store", 0)));
    const device = await engine.openDevice({
      memory: { kind: "region", memories: [region] },
      layout: {
        tensors: [{ memory: 0, offset: 0, strideBytes: 4096, pageBytes: 4096, pages: 4096 }],
        groups: [[{ tensor: 0, bytes: 4096 }]], blocksPerChunk: 16 } });
    const copies = { host: memory, hostOffsets: new Float64Array(2000), groups: new Uint32Array(2000), blocks: new Uint32Array(32_000) };
    promises.push(device.copy(false, copies, 0));
    return { native, engine, store, region, device, promises, connection, server };
  }`;

function run(script: string): { status: number | null; signal: string | null; output: string } {
  const folder = scratch();
  const child = spawnSync(process.execPath, ["-e", `${busy}\nconst folder = ${JSON.stringify(folder)};\n${script}`], {
    encoding: "utf8",
    timeout: 30_000,
  });
  return { status: child.status, signal: child.signal, output: child.stdout + child.stderr };
}

test("a process that exits during I/O exits well", () => {
  const ended = run("start(folder).then(() => process.exit(7));");
  expect(ended).toEqual({ status: 7, signal: null, output: "" });
});

test("a process that throws during I/O reports that and nothing else", () => {
  const ended = run(`start(folder).then(() => { throw new Error("mine"); });`);
  expect(ended.signal).toBeNull();
  expect(ended.status).toBe(1);
  expect(ended.output).toContain("mine");
});

test("a worker that ends or is terminated during I/O does not harm the process", { timeout: 60_000 }, () => {
  const ended = run(`
    const { Worker } = require("node:worker_threads");
    const body = (end, i) => ${JSON.stringify(busy)} + \`
      start(\${JSON.stringify(folder + "/w" + i)}).then(() => { require("node:worker_threads").parentPort.postMessage(1); \${end} });\`;
    require("node:fs");
    (async () => {
      for (let i = 0; i < 6; i++) {
        require("node:fs").mkdirSync(folder + "/w" + i);
        const worker = new Worker(body(i % 2 ? "process.exit(0)" : "", i), { eval: true });
        const exited = new Promise((done) => worker.on("exit", done));
        await new Promise((done) => worker.on("message", done));
        if (i % 2 === 0) await worker.terminate();
        await exited;
      }
      console.log("fine");
    })();`);
  expect(ended).toEqual({ status: 0, signal: null, output: "fine\n" });
});

test("a process waits for its batches, then ends by itself although the engine is open", () => {
  const ended = run(`
    start(folder).then(async ({ promises, connection, server }) => {
      connection.close();
      server.close();
      const results = await Promise.all(promises);
      console.log(results.length, results.every(({ outcomes }) => outcomes.every((o) => o !== 0)));
    });`);
  expect(ended).toEqual({ status: 0, signal: null, output: "5 true\n" });
});

test("engines, stores and regions that are dropped are collected", { timeout: 60_000 }, () => {
  const ended = run(`
    const v8 = require("node:v8");
    v8.setFlagsFromString("--expose-gc");
    const gc = require("node:vm").runInNewContext("gc");
    const threads = () => require("node:fs").readdirSync("/proc/self/task").length;
    const maps = () => require("node:fs").readFileSync("/proc/self/maps", "utf8").split("kvferry-region").length - 1;
    const once = async (i) => {
      require("node:fs").mkdirSync(folder + "/" + i);
      const all = await start(folder + "/" + i);
      await Promise.all(all.promises);
      all.connection.close();
      all.server.close();
    };
    (async () => {
      await once(0);
      const before = threads();
      for (let i = 1; i < 6; i++) await once(i);
      for (let i = 0; i < 20; i++) { gc(); await new Promise((done) => setTimeout(done, 10)); }
      console.log(threads() <= before, maps() <= 1);
      process.exit(0);
    })();`);
  expect(ended).toEqual({ status: 0, signal: null, output: "true true\n" });
});

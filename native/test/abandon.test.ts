/** Calls that hang in the kernel, without a file system that does: a pipe is opened for writing only when somebody reads it. */
import { execFileSync, spawnSync } from "node:child_process";
import { closeSync, constants, existsSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { createFileEngine, type FileEngine } from "../src/index.js";
import { addonPath, keysOf, LOADED, STORED, scratch, slotsOf, storeOptions } from "./helpers.js";

const TEXT = new TextEncoder().encode("text");

function engineOf(options: object = {}): FileEngine {
  const engine = createFileEngine({ abandonable: true, threads: 2, stuckAfterMs: 20, stuckThreadsMax: 1, ...options });
  onTestFinished(() => engine.close());
  return engine;
}

function pipeIn(folder: string): string {
  const path = join(folder, "pipe");
  execFileSync("mkfifo", [path]);
  return path;
}

async function until(condition: () => boolean): Promise<void> {
  for (const begin = Date.now(); !condition(); await new Promise((done) => setTimeout(done, 5))) {
    if (Date.now() - begin > 20_000) throw new Error("it did not come to this");
  }
}

test("a call that hangs ends with its signal, and its thread is counted until it is back", async () => {
  const path = pipeIn(scratch());
  const engine = engineOf();
  const controller = new AbortController();
  const hanging = [1, 2, 3].map(() => engine.folders.write(path, TEXT, 0o600, false, controller.signal));
  await until(() => engine.stats().stuckThreads === 3); // two, and one in place of another
  await expect(engine.folders.names("/")).rejects.toMatchObject({ code: "UNAVAILABLE" });
  controller.abort();
  for (const call of hanging) await expect(call).rejects.toMatchObject({ code: "ABORTED" });
  expect(engine.stats()).toMatchObject({ running: 0, stuckThreads: 3, threads: 3 });
  const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  await until(() => engine.stats().stuckThreads === 0 && engine.stats().threads === 2);
  closeSync(reader);
  expect(await engine.folders.names("/proc/self/task")).not.toHaveLength(0);
});

test("an engine closes, and a process ends, over a call that hangs", async () => {
  const path = pipeIn(scratch());
  const engine = engineOf();
  const hanging = engine.folders.write(path, TEXT, 0o600, false);
  hanging.catch(() => {});
  await engine.close();
  await expect(hanging).rejects.toMatchObject({ code: "CLOSED" });
  closeSync(openSync(path, constants.O_RDONLY | constants.O_NONBLOCK));

  const child = spawnSync(
    process.execPath,
    [
      "-e",
      `const native = require(${JSON.stringify(addonPath)});
       const engine = new native.FileEngine(2, 100, { stuckAfterMs: 20, stuckThreadsMax: 1 });
       engine.folderCall("write", 0, ${JSON.stringify(path)}, new Uint8Array(1), 0o600, false).catch(() => {});
       setTimeout(() => process.exit(7), 100);`,
    ],
    { encoding: "utf8", timeout: 60_000 },
  );
  expect(child).toMatchObject({ status: 7, signal: null, stderr: "" });
});

test("a process whose own threads hang ends all the same", () => {
  const path = pipeIn(scratch());
  const child = spawnSync(
    process.execPath,
    [
      "-e",
      `require("node:fs").writeFile(${JSON.stringify(path)}, "x", () => {});
       setTimeout(() => { require(${JSON.stringify(addonPath)}).exitWithin(100, 7); process.exit(7); }, 100);`,
    ],
    { encoding: "utf8", timeout: 60_000 },
  );
  expect(child).toMatchObject({ status: 7, signal: null, stderr: "" });
});

test("blocks go through memory of the threads, and look the same", async () => {
  const engine = engineOf();
  for (const blockBytes of [4096, 10_001]) {
    const store = await engine.openStore(storeOptions(scratch(), blockBytes));
    const memory = new Uint8Array(8 * blockBytes).map((_, i) => i * 7);
    const io = { keys: keysOf(8), rowBytes: blockBytes, slots: slotsOf(8) };
    expect([...(await store.store({ ...io, memory })).outcomes]).toEqual(new Array(8).fill(STORED));
    const back = new Uint8Array(8 * blockBytes);
    expect([...(await store.load({ ...io, memory: back })).outcomes]).toEqual(new Array(8).fill(LOADED));
    expect(Buffer.compare(back, memory)).toBe(0);
    store.close();
  }
});

test("calls on paths do what they say, and name the errno of what they cannot do", async () => {
  const folder = scratch();
  const { folders } = engineOf();
  const path = join(folder, "a/b/file");
  await folders.makeFolders(join(folder, "a/b"), 0o700);
  await folders.makeFolders(join(folder, "a/b"), 0o700);
  await folders.write(path, TEXT, 0o600, true);
  await expect(folders.write(path, TEXT, 0o600, true)).rejects.toMatchObject({ context: { errno: "EEXIST", path } });
  await folders.write(path, TEXT.subarray(1), 0o600, false);
  expect(readFileSync(path, "utf8")).toBe("ext");
  expect(Buffer.from(await folders.read(path, 2)).toString()).toBe("ex");
  await folders.touch(path, 1_234_567_890_123);
  expect(await folders.facts(path)).toEqual({ bytes: 3, modifiedAtMs: 1_234_567_890_123 });
  await folders.rename(path, join(folder, "a/new"));
  expect([...(await folders.names(join(folder, "a")))].sort()).toEqual(["b", "new"]);
  await folders.access(folder, constants.R_OK | constants.W_OK);
  expect(await folders.fileSystem("/proc")).toBe(0x9fa0);
  await folders.remove(join(folder, "a"));
  await folders.remove(join(folder, "a"));
  expect(existsSync(join(folder, "a"))).toBe(false);
  await expect(folders.names(join(folder, "a"))).rejects.toMatchObject({ context: { errno: "ENOENT" } });
  await expect(folders.access(join(folder, "a"), constants.R_OK)).rejects.toMatchObject({
    context: { errno: "ENOENT" },
  });
  await expect(folders.names("a\0b")).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
});

// Moving a fleet's cache: what arrives is what was there, however often and however hard the copy was stopped.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type KeyBatch, keyAt, keyHex, selectKeys } from "@kvferry/core";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { type S3Server, s3ServerBinary } from "../../../scripts/lib/s3-servers.mjs";
import { resolveConfig } from "../src/config.js";
import { isSamePlace, resolveSide } from "../src/maintenance/copy-sides.js";
import { run, serveConfig, start } from "./child-server.js";
import { BLOCK_BYTES, connect, fill, KEY_BYTES, randomKeys, range, scratch, until } from "./helpers.js";
import {
  leaveVllmFiles,
  NAMESPACE,
  nvmeStorage,
  posixStorage,
  present,
  put,
  s3Storage,
  sound,
  startVersitygw,
  type TestStorage,
  vllmStorage,
} from "./storages.js";

const TIMEOUT_MS = 120_000;
const hasS3 = s3ServerBinary("versitygw") !== undefined;
let server: S3Server | undefined;

beforeAll(async () => {
  if (hasS3) server = await startVersitygw();
}, TIMEOUT_MS);
afterAll(() => server?.stop(), TIMEOUT_MS);

interface Row {
  readonly listedBlocks: number;
  readonly skippedBlocks: number;
  readonly copiedBlocks: number;
  readonly readBytes: number;
  readonly corruptBlocks: number;
  readonly missedBlocks: number;
  readonly droppedBlocks: number;
  readonly failedBlocks: number;
  readonly verifiedBlocks: number;
}

const NONE = { corruptBlocks: 0, missedBlocks: 0, droppedBlocks: 0, failedBlocks: 0 };

async function copy(from: TestStorage, to: TestStorage, flags: readonly string[] = []) {
  const ended = await run(["copy", from.argument, to.argument, "--json", ...flags], { ...from.env, ...to.env });
  const result = ended.stdout === "" ? undefined : JSON.parse(ended.stdout);
  return { ...ended, row: result?.namespaces[0] as Row };
}

type Kind = "posix" | "vllm-fs" | "nvme" | "s3";
const KINDS: readonly Kind[] = ["posix", "vllm-fs", "nvme", "s3"];

async function storageOf(kind: Kind): Promise<TestStorage> {
  if (kind === "posix") return posixStorage();
  if (kind === "nvme") return nvmeStorage();
  return kind === "s3" ? s3Storage(server as S3Server) : vllmStorage();
}

/** A storage that holds the blocks; in vLLM's directory they are files of vLLM's own. */
async function filled(kind: Kind, keys: KeyBatch): Promise<TestStorage> {
  if (kind === "vllm-fs") {
    const root = join(scratch(), "vllm");
    leaveVllmFiles(root, keys);
    return vllmStorage(root);
  }
  const storage = await storageOf(kind);
  await put(storage, keys);
  return storage;
}

describe("kvferry copy", { timeout: TIMEOUT_MS }, () => {
  for (const from of KINDS) {
    for (const to of KINDS) {
      const needsS3 = from === "s3" || to === "s3";
      it.skipIf(needsS3 && !hasS3)(`moves every byte from ${from} to ${to}, once`, async () => {
        const keys = randomKeys(40);
        const [source, target] = [await filled(from, keys), await storageOf(to)];
        const first = await copy(source, target, ["--verify"]);
        expect(first).toMatchObject({ code: 0, stderr: expect.not.stringContaining("kvferry:") });
        const bytes = 40 * BLOCK_BYTES;
        const all = { listedBlocks: 40, copiedBlocks: 40, skippedBlocks: 0, readBytes: bytes, verifiedBlocks: 40 };
        expect(first.row).toMatchObject({ ...NONE, ...all });
        expect(await sound(target, keys)).toHaveLength(40);
        const again = await copy(source, target);
        expect(again).toMatchObject({ code: 0, row: { ...NONE, copiedBlocks: 0, skippedBlocks: 40, readBytes: 0 } });
        if (from !== "posix") return; // the rest is about TO alone: tools find the namespace there
        const { code, stdout } = await run(["copy", target.argument, posixStorage().argument, "--dry-run"], target.env);
        expect({ code, stdout }).toMatchObject({ code: 0, stdout: expect.stringContaining("40 blocks to copy") });
      });
    }
  }
});

/** Where a posix storage has the blocks. */
function filesOf(root: string): Map<string, string> {
  const names = existsSync(root) ? readdirSync(root, { recursive: true, encoding: "utf8" }) : [];
  const blocks = names.filter((path) => path.endsWith(".kvb") && path.includes("/blocks/"));
  return new Map(blocks.map((path) => [path.slice(path.lastIndexOf("/") + 1, -4), join(root, path)]));
}

function spoil(root: string, keys: KeyBatch, positions: readonly number[]): void {
  const files = filesOf(root);
  for (const i of positions) {
    const path = files.get(keyHex(keyAt(keys, i))) as string;
    const bytes = readFileSync(path);
    bytes[100] = (bytes[100] as number) ^ 1;
    writeFileSync(path, bytes);
  }
}

describe("a copy that was stopped", { timeout: TIMEOUT_MS }, () => {
  const targets: readonly Kind[] = ["posix", "nvme", "s3"];
  for (const kind of targets) {
    it.skipIf(kind === "s3" && !hasS3)(`by kill -9 goes on in ${kind}, and reads no block again`, async () => {
      const keys = randomKeys(150);
      const root = join(scratch(), "from");
      const [source, target] = [posixStorage(root), await storageOf(kind)];
      await put(source, keys);
      const args = ["copy", source.argument, target.argument, "--rate", "1MiB", "--concurrency", "8"];
      const { child, finished } = await start(args, target.env);
      await started(target);
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 1500)); // any moment will do
      child.kill("SIGKILL");
      await finished;
      const there = await present(target, keys);
      spoil(root, keys, there); // whoever reads one of them again will see it
      const { code, row } = await copy(source, target);
      const left = 150 - there.length;
      const counts = { copiedBlocks: left, skippedBlocks: there.length, readBytes: left * BLOCK_BYTES };
      expect({ code, row }).toMatchObject({ code: 0, row: { ...NONE, ...counts, listedBlocks: 150 } });
      expect(await sound(target, keys)).toHaveLength(150);
    });
  }

  it("by Ctrl-C says what it has done and can be run again", async () => {
    const keys = randomKeys(150);
    const [source, root] = [posixStorage(), join(scratch(), "to")];
    await put(source, keys);
    const target = posixStorage(root);
    const args = ["copy", source.argument, target.argument, "--rate", "500KiB/s", "--concurrency", "8", "--json"];
    const { child, finished } = await start(args);
    await until(() => filesOf(root).size > 3, TIMEOUT_MS);
    child.kill("SIGINT");
    const { code, stdout } = await finished;
    const { interrupted, namespaces } = JSON.parse(stdout);
    const there = (await present(target, keys)).length;
    expect({ code, interrupted }).toEqual({ code: 130, interrupted: true });
    expect(namespaces[0]).toMatchObject({ ...NONE, copiedBlocks: there, readBytes: there * BLOCK_BYTES });
    expect(there).toBeLessThan(150);
    expect(await copy(source, target)).toMatchObject({ code: 0, row: { copiedBlocks: 150 - there } });
    expect(await sound(target, keys)).toHaveLength(150);
  });

  it.skipIf(!hasS3)("by a storage that answers no more ends with an error, and goes on when it is well", async () => {
    const keys = randomKeys(150);
    const [source, target] = [posixStorage(), s3Storage(server as S3Server)];
    await put(source, keys);
    const hasty = `${target.argument}&requestTimeoutMs=300`;
    const args = ["copy", source.argument, hasty, "--rate", "500KiB", "--concurrency", "8"];
    const { finished } = await start(args, target.env);
    await started(target);
    server?.pause();
    const { code, stderr } = await finished.finally(() => server?.resume());
    expect({ code, stderr }).toMatchObject({ code: 1, stderr: expect.stringContaining("kvferry: TO") });
    expect(await copy(source, target)).toMatchObject({ code: 0, row: { ...NONE, listedBlocks: 150 } });
    expect(await sound(target, keys)).toHaveLength(150);
  });
});

/** Until a copy into it has begun. */
async function started({ argument }: TestStorage): Promise<void> {
  const place = argument.slice(argument.indexOf(":") + 1).split("?")[0] as string;
  const folder = argument.startsWith("s3:") ? join(server?.data as string, "objects", place) : place;
  await until(() => existsSync(folder) && readdirSync(folder).length > 0, TIMEOUT_MS);
}

describe("what a copy leaves behind", { timeout: TIMEOUT_MS }, () => {
  it("no damaged block: it is counted, set aside in FROM and not copied", async () => {
    const keys = randomKeys(30);
    const root = join(scratch(), "from");
    const [source, target] = [posixStorage(root), posixStorage()];
    await put(source, keys);
    spoil(root, keys, [3, 17]);
    const { code, row } = await copy(source, target);
    expect({ code, row }).toMatchObject({ code: 1, row: { ...NONE, corruptBlocks: 2, copiedBlocks: 28 } });
    expect(await present(target, keys)).toEqual(range(30).filter((i) => i !== 3 && i !== 17));
    expect(await copy(source, target)).toMatchObject({ code: 0, row: { ...NONE, listedBlocks: 28, readBytes: 0 } });
  });

  for (const [kind, argument, flags] of [
    ["posix", (path: string) => `posix:${path}?capacity=2MiB`, []],
    // for so long that the server asks for room ahead of its stores
    ["posix, slowly,", (path: string) => `posix:${path}?capacity=2MiB`, ["--rate", "600KiB"]],
    ["nvme", (path: string) => `nvme:${path}?capacity=3MiB&segment=131072`, []],
  ] as const) {
    it(`in a full ${kind} everything that was there before`, async () => {
      const [old, keys] = [randomKeys(20), randomKeys(200)];
      const [before, source] = [posixStorage(), posixStorage()];
      await put(before, old);
      await put(source, keys);
      const path = join(scratch(), "to");
      const whole = kind === "nvme" ? nvmeStorage(3 * 2 ** 20, path) : posixStorage(path);
      const target = { ...whole, argument: argument(path) };
      expect(await copy(before, target)).toMatchObject({ code: 0, row: { copiedBlocks: 20 } });
      const { code, stderr, row } = await copy(source, target, flags);
      expect({ code, stderr, row }).toMatchObject({ code: 1, stderr: expect.stringContaining("TO is full (capacity") });
      expect(row.droppedBlocks).toBeGreaterThan(0);
      expect(row.copiedBlocks).toBeGreaterThan(20);
      expect(row.readBytes).toBe(row.copiedBlocks * BLOCK_BYTES);
      expect(await sound(whole, keys)).toHaveLength(row.copiedBlocks);
      expect(await sound(whole, old)).toHaveLength(20);
    });
  }

  it.skipIf(process.getuid?.() !== 0)(
    "in a file system without room what had fitted, and goes on when there is room",
    async () => {
      const keys = randomKeys(200);
      const [source, folder] = [posixStorage(), scratch()];
      await put(source, keys);
      execFileSync("mount", ["-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]);
      onTestFinished(() => void execFileSync("umount", ["-l", folder]));
      const target = posixStorage(join(folder, "to"));
      const { code, stderr, row } = await copy(source, target);
      expect({ code, stderr }).toMatchObject({ code: 1, stderr: expect.stringContaining("TO is full") });
      expect(row.droppedBlocks).toBeGreaterThan(0);
      expect(await sound(target, keys)).toHaveLength(row.copiedBlocks);
      execFileSync("mount", ["-o", "remount,size=16m", folder]);
      const rest = 200 - row.copiedBlocks;
      expect(await copy(source, target)).toMatchObject({ code: 0, row: { ...NONE, copiedBlocks: rest } });
      expect(await sound(target, keys)).toHaveLength(200);
    },
  );

  it("in a drive the chains that FROM knows, and none that it does not", async () => {
    const keys = randomKeys(12);
    for (const i of range(12)) keyAt(keys, i).fill(0, KEY_BYTES - 4); // of one group
    const [posix, first, second, third] = [posixStorage(), nvmeStorage(), nvmeStorage(), nvmeStorage()];
    await put(posix, keys);
    await put(first, keys); // one store: a chain
    expect((await copy(first, second)).code).toBe(0);
    expect((await copy(posix, third)).code).toBe(0);
    expect(await parentsIn(second, keys)).toEqual([undefined, ...range(11)]);
    expect(await parentsIn(third, keys)).toEqual(range(12).map(() => undefined));
  });

  it("a drive as large as it was, whatever capacity was given for it", async () => {
    const keys = randomKeys(100);
    const path = join(scratch(), "nvme");
    const drive = nvmeStorage(64 * 2 ** 20, path);
    await put(drive, keys);
    const { size } = statSync(join(path, "segments.kvs"));
    const small = { ...drive, argument: `nvme:${path}?capacity=24MiB` };
    expect(await copy(small, posixStorage())).toMatchObject({ code: 0, row: { copiedBlocks: 100 } });
    const bare = { ...drive, argument: `nvme:${path}` };
    expect(await copy(bare, posixStorage())).toMatchObject({ code: 0, row: { copiedBlocks: 100 } });
    expect(statSync(join(path, "segments.kvs")).size).toBe(size);
    expect(await sound(drive, keys)).toHaveLength(100);
  });

  it("nothing at all with --dry-run", async () => {
    const keys = randomKeys(10);
    const source = posixStorage();
    await put(source, keys);
    for (const path of [join(scratch(), "a"), join(scratch(), "b")]) {
      const argument = path.endsWith("a") ? `posix:${path}` : `nvme:${path}?capacity=64MiB`;
      const { code, stdout } = await run(["copy", source.argument, argument, "--dry-run"]);
      expect({ code, stdout }).toMatchObject({ code: 0, stdout: expect.stringContaining("10 blocks to copy") });
      expect(existsSync(path)).toBe(false);
    }
    const half = posixStorage();
    await put(half, selectKeys(keys, range(4)));
    const counted = await run(["copy", source.argument, half.argument, "--dry-run", "--json"]);
    const namespaces = [{ namespace: NAMESPACE.digestHex, listedBlocks: 10, skippedBlocks: 4, missingBlocks: 6 }];
    expect(JSON.parse(counted.stdout)).toMatchObject({ dryRun: true, namespaces });
    expect(await present(half, keys)).toHaveLength(4);
  });
});

/** Position of each key's parent as the drive tells it. */
async function parentsIn(drive: TestStorage, keys: KeyBatch): Promise<(number | undefined)[]> {
  const names = range(keys.count).map((i) => keyHex(keyAt(keys, i)));
  const parents: (number | undefined)[] = names.map(() => undefined);
  const backend = await drive.open();
  for await (const page of backend.scan()) {
    for (const { key, parent } of page) {
      if (parent !== undefined) parents[names.indexOf(keyHex(key))] = names.indexOf(keyHex(parent));
    }
  }
  await backend.close();
  return parents;
}

describe("a copy beside others", { timeout: TIMEOUT_MS }, () => {
  it("works with servers on both sides of folders, and engines find what arrives", async () => {
    const folder = scratch();
    const sides = ["from", "to"].map((name) => join(folder, name));
    const sockets: string[] = [];
    for (const root of sides) {
      mkdirSync(root);
      const [file, socket] = [join(root, "kvferry.yaml"), join(root, "s")];
      writeFileSync(file, JSON.stringify({ socket, http: "off", tiers: [{ backend: "posix", root }] }));
      await serveConfig(file, socket);
      sockets.push(socket);
    }
    const [a, b] = [await connect(sockets[0] as string), await connect(sockets[1] as string)];
    const keys = randomKeys(30);
    fill(a.region, keys, range(30));
    await a.client.store(keys, range(30));
    const source = posixStorage(sides[0] as string);
    const target = posixStorage(sides[1] as string);
    // two at once do no harm
    const both = await Promise.all([copy(source, target), copy(source, target)]);
    expect(both.map(({ code, row }) => ({ code, ...row }))).toMatchObject(
      [NONE, NONE].map((row) => ({ code: 0, ...row })),
    );
    expect(both.reduce((sum, { row }) => sum + row.copiedBlocks, 0)).toBe(30);
    const { outcomes } = await b.client.load(keys, range(30));
    expect([...outcomes]).toEqual(range(30).map(() => 4));
    expect(await sound(target, keys)).toHaveLength(30);
  });

  it("says who has a drive that one process has at a time", async () => {
    const folder = scratch();
    const [file, socket, path] = [join(folder, "kvferry.yaml"), join(folder, "s"), join(folder, "nvme")];
    const tiers = [
      { backend: "nvme", path, capacity: "64MiB" },
      { backend: "posix", root: join(folder, "posix") },
    ];
    writeFileSync(file, JSON.stringify({ socket, http: "off", tiers }));
    await serveConfig(file, socket);
    const { code, stderr } = await run(["copy", "nvme", "posix", "--config", file]);
    expect(code).toBe(1);
    expect(stderr).toContain("FROM: ");
    expect(stderr).toContain("another process uses this drive");
  });

  it("takes the names of tiers, keeps to its rate, and copies only the namespaces it was told", async () => {
    const folder = scratch();
    const [file, root, path] = [join(folder, "kvferry.yaml"), join(folder, "posix"), join(folder, "nvme")];
    const tiers = [
      { name: "fast", backend: "nvme", path: "nvme", capacity: "64MiB" },
      { name: "shared", backend: "posix", root: "posix" },
    ];
    writeFileSync(file, JSON.stringify({ tiers }));
    const keys = randomKeys(40);
    await put(posixStorage(root), keys);
    const digest = NAMESPACE.digestHex.slice(0, 8);
    const flags = ["--config", file, "--namespace", digest, "--rate", "400KiB", "--json"];
    const { code, stdout } = await run(["copy", "shared", "fast", ...flags]);
    expect(code).toBe(0);
    const [row] = JSON.parse(stdout).namespaces;
    expect(row).toMatchObject({ copiedBlocks: 40 });
    expect(row.seconds).toBeGreaterThan(1); // 640 KiB, of which a batch and a tenth of a second are free
    expect(await sound(nvmeStorage(64 * 2 ** 20, path), keys)).toHaveLength(40);
  });
});

describe("wrong use of kvferry copy", { timeout: TIMEOUT_MS }, () => {
  it("is told by the side and the field, as in a configuration, with what helps", () => {
    const config = resolveConfig({
      tiers: [
        { name: "fast", backend: "memory" },
        { name: "shared", backend: "posix", root: "/mnt/kv" },
      ],
    });
    for (const [text, words] of [
      ["elsewhere", "'name' is elsewhere; the configuration has fast, shared"],
      ["fast", "'backend' is memory, which ends with its server"],
      ["memory:", "'backend' is memory, which ends with its server"],
      ["posix:", "'root' is missing"],
      ["ftp:/x", "'backend' is 'ftp'"],
      ["posix:/x?layut=vllm-fs", "unknown field 'layut'; did you mean 'layout'?"],
      ["posix:/x?__proto__=1", "unknown field '__proto__'"],
      ["posix:/x?adopt=perhaps", "'adopt' must be boolean"],
      ["posix:/x?capacity=much", "'capacity'"],
      ["posix:/x?root=/y", "'root' is given twice"],
      ["nvme:/nowhere", "'capacity' is missing"],
      ["s3:good?sse.type=none", "'sse.type'"],
      ["sftp:store.example/kv", "'user' is missing"],
      ["sftp:kv@store.example", "'root' is missing"],
      ["sftp:kv@store.example:99999/kv", "'port' must be <= 65535"],
    ] as const) {
      expect(() => resolveSide("TO", text, config), text).toThrow(`TO: ${words}`);
    }
    const lustre = { backend: "parallel-fs", root: "/lustre/kv" };
    expect(resolveSide("TO", "parallel-fs:/lustre/kv", config)).toMatchObject(lustre);
    expect(resolveSide("TO", "shared", config)).toMatchObject({ backend: "posix", root: "/mnt/kv" });
    const place = "s3:bucket/a/b?endpoint=http://[::1]:9000&forcePathStyle=true&sse.type=AES256&socketsMax=8";
    expect(resolveSide("TO", place, config)).toMatchObject({
      ...{ backend: "s3", bucket: "bucket", prefix: "a/b", endpoint: "http://[::1]:9000" },
      ...{ forcePathStyle: true, socketsMax: 8, sse: { type: "AES256" } },
    });
    const remote = (text: string) => resolveSide("FROM", text, config);
    expect(remote("sftp:kv@store.example:2222/srv/kv?agent=true&hostKeyCheck=false")).toMatchObject({
      ...{ backend: "sftp", user: "kv", host: "store.example", port: 2222, root: "/srv/kv", agent: true },
    });
    const there = remote("sftp:kv@[::1]/srv/kv?agent=true");
    expect(there).toMatchObject({ host: "::1", root: "/srv/kv" });
    expect(isSamePlace(there, remote("sftp:other@[::1]:22/srv/kv?agent=true"))).toBe(true);
    expect(isSamePlace(there, remote("sftp:kv@[::1]:23/srv/kv?agent=true"))).toBe(false);
  });

  it("ends with 2 and makes nothing", async () => {
    const folder = scratch();
    const [a, b] = [`posix:${folder}/a`, `posix:${folder}/b`];
    await put(posixStorage(join(folder, "a")), randomKeys(1));
    mkdirSync(join(folder, "empty"));
    for (const [args, words] of [
      [[a], "missing required argument 'to'"],
      [[a, a], "FROM and TO are the same place"],
      [[a, a.replace("posix", "parallel-fs")], "FROM and TO are the same place"],
      [[b, a], "FROM: there is no storage of kvferry's at"],
      [[a, "s3:UPPER"], "TO: 'bucket' must be a bucket's name"],
      [[a, b, "--rate", "fast"], "--rate"],
      [[a, b, "--concurrency", "0"], "--concurrency"],
      [[a, b, "--namespace", "00"], "'--namespace' is 00: there is none"],
      [[`posix:${folder}/empty?layout=vllm-fs`, b], "let an engine use kvferry over this folder once"],
    ] as const) {
      const { code, stderr } = await run(["copy", ...args]);
      expect({ args, code, stderr }).toEqual({ args, code: 2, stderr: expect.stringContaining(words) });
    }
    expect(existsSync(join(folder, "b"))).toBe(false);
    const nothing = await run(["copy", `posix:${folder}/empty`, b]);
    expect(nothing).toMatchObject({ code: 0, stdout: "nothing is stored\n" });
  });

  it("is to ask for vLLM's names where nobody knows them, or for the owner of files that do not tell", async () => {
    const root = join(scratch(), "vllm");
    const keys = randomKeys(4);
    const source = posixStorage();
    await put(source, keys);
    const unnamed = { ...source, argument: `posix:${root}?layout=vllm-fs` };
    const refused = await copy(source, unnamed);
    expect(refused).toMatchObject({ code: 2, stderr: expect.stringContaining("TO: 'layout' is vllm-fs") });
    // the same folder after a change of weights
    leaveVllmFiles(root, keys);
    const folder = await vllmStorage(root);
    const other = await vllmStorage(root, { weights: "ff".repeat(32) });
    expect(other.argument).toBe(folder.argument);
    const whose = await copy(folder, posixStorage());
    expect(whose).toMatchObject({ code: 2, stderr: expect.stringContaining("choose one by --namespace") });
    const chosen = await copy(folder, posixStorage(), ["--namespace", NAMESPACE.digestHex]);
    expect(chosen).toMatchObject({ code: 0, row: { copiedBlocks: 4 } });
  });
});

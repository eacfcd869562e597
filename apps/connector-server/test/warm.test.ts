// A start with a warm memory: what engines will ask for is there before they ask, the hottest first, and nothing had to go for it.
import { existsSync, readdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type KeyBatch, keyAt, keyHex, Outcome, selectKeys } from "@kvferry/core";
import { describe, expect, it, onTestFinished } from "vitest";
import { type RunningServer, type ServerConfig, startServer } from "../src/index.js";
import { run, start } from "./child-server.js";
import {
  BLOCK_BYTES,
  connect,
  fill,
  holds,
  namespace,
  RawClient,
  randomKeys,
  range,
  scratch,
  until,
} from "./helpers.js";

const TIMEOUT_MS = 120_000;
const MEBIBYTE = 2 ** 20;
/** Blocks that a MiB of memory takes. */
const PER_MEBIBYTE = MEBIBYTE / BLOCK_BYTES;
const PER_STORE = 32;
/** Bytes a second: a run of 200 blocks that a test ends. */
const SLOW = 4 * BLOCK_BYTES;

interface Place {
  readonly root: string;
  readonly socket: string;
  readonly config: ServerConfig;
}

function place(memoryBytes: number, more: ServerConfig = {}): Place {
  const folder = scratch();
  const root = join(folder, "blocks");
  const socket = join(folder, "kvferry.sock");
  const tiers = [
    { backend: "memory", capacity: memoryBytes },
    { backend: "posix", root },
  ] as const;
  return { root, socket, config: { socket, http: "off", drainTimeoutMs: 2000, tiers, ...more } };
}

async function serve(config: ServerConfig): Promise<RunningServer> {
  const server = await startServer(config);
  onTestFinished(async () => {
    await server.close();
  });
  return server;
}

/** Stores through a server that has ended afterwards, so that only the last tier has the blocks. */
async function stored({ config }: Place, keys: KeyBatch, model = namespace.model): Promise<void> {
  const { warm: _warm, ...cold } = config;
  const server = await startServer({ ...cold, tiers: (config.tiers ?? []).slice(-1) });
  try {
    const { client, region } = await connect(server.socket, { namespace: { ...namespace, model } });
    for (let at = 0; at < keys.count; at += PER_STORE) {
      const part = partOf(keys, at);
      fill(region, part, range(part.count));
      const { outcomes } = await client.store(part, range(part.count));
      expect(outcomes.every((outcome) => outcome === Outcome.STORED)).toBe(true);
    }
    await client.close();
  } finally {
    await server.close();
  }
}

function partOf(keys: KeyBatch, at: number): KeyBatch {
  return selectKeys(keys, range(Math.min(PER_STORE, keys.count - at), at));
}

/** Loads all, compares every byte, and says how many blocks came from which tier. */
async function hitsOf(server: RunningServer, keys: KeyBatch): Promise<Record<string, number>> {
  const { client, region } = await connect(server.socket);
  for (let at = 0; at < keys.count; at += PER_STORE) {
    const part = partOf(keys, at);
    const { outcomes } = await client.load(part, range(part.count));
    for (const i of range(part.count)) {
      expect(outcomes[i], `block ${at + i}`).toBe(Outcome.LOADED);
      expect(holds(region, part, i, i), `bytes of block ${at + i}`).toBe(true);
    }
  }
  const sum = (hits: Record<string, number>): number => Object.values(hits).reduce((a, b) => a + b, 0);
  await until(async () => sum(await countedHits(server)) >= keys.count);
  return countedHits(server);
}

async function countedHits(server: RunningServer): Promise<Record<string, number>> {
  const lines = (await server.metrics()).matchAll(/^kvferry_tier_hits_total\{tier="(.+)"\} (\d+)$/gm);
  return Object.fromEntries([...lines].map(([, tier, blocks]) => [tier as string, Number(blocks)]));
}

function filesOf(root: string): Map<string, string> {
  const names = existsSync(root) ? readdirSync(root, { recursive: true, encoding: "utf8" }) : [];
  const blocks = names.filter((path) => path.endsWith(".kvb") && path.includes("/blocks/"));
  return new Map(blocks.map((path) => [path.slice(path.lastIndexOf("/") + 1, -4), join(root, path)]));
}

function fileOf(root: string, keys: KeyBatch, i: number): string {
  return filesOf(root).get(keyHex(keyAt(keys, i))) as string;
}

async function warm({ socket }: Place, flags: readonly string[] = []) {
  const ended = await run(["warm", "--socket", socket, "--json", ...flags]);
  return { ...ended, result: ended.stdout === "" ? undefined : JSON.parse(ended.stdout) };
}

async function warmed(server: RunningServer): Promise<void> {
  await until(async () => !["listing", "loading", undefined].includes((await server.status()).warm?.state), 20_000);
}

describe("kvferry warm", { timeout: TIMEOUT_MS }, () => {
  it("puts what is stored into memory, so that an engine reads nothing from below", async () => {
    const at = place(8 * MEBIBYTE);
    const keys = randomKeys(100);
    await stored(at, keys);
    const server = await serve(at.config);
    const first = await warm(at);
    expect(first).toMatchObject({ code: 0, stderr: "" });
    const all = { listedBlocks: 100, loadedBlocks: 100, loadedBytes: 100 * BLOCK_BYTES, presentBlocks: 0 };
    expect(first.result).toMatchObject({ state: "done", ...all, tiers: { memory: 100 } });
    expect(await hitsOf(server, keys)).toEqual({ memory: 100 });
    const again = await warm(at);
    expect(again.result).toMatchObject({ state: "done", listedBlocks: 100, loadedBlocks: 0, presentBlocks: 100 });
    const { stdout } = await run(["warm", "--socket", at.socket]);
    expect(stdout).toBe("0 blocks, 0 B, 100 were there, all that is stored\n");
  });

  it("takes the hottest that have room, and lets nothing go", async () => {
    const at = place(2 * MEBIBYTE);
    const keys = randomKeys(3 * PER_MEBIBYTE);
    await stored(at, keys);
    const hot = range(keys.count).filter((i) => i % 3 === 0);
    for (const i of range(keys.count)) {
      const usedAt = Date.now() / 1000 - (hot.includes(i) ? 3600 : 86_400);
      utimesSync(fileOf(at.root, keys, i), usedAt, usedAt);
    }
    const server = await serve(at.config);
    const { result } = await warm(at);
    expect(result).toMatchObject({ state: "full", loadedBlocks: 2 * PER_MEBIBYTE, droppedBlocks: 0 });
    expect(await server.metrics()).not.toMatch(/kvferry_tier_moved_blocks_total\{[^}]*cascade/);
    expect(await hitsOf(server, selectKeys(keys, hot))).toEqual({ memory: hot.length });
  });

  it("keeps within --bytes, and takes one namespace where --namespace says so", async () => {
    const at = place(8 * MEBIBYTE);
    await stored(at, randomKeys(64));
    await stored(at, randomKeys(64), "another/model");
    const server = await serve(at.config);
    const bounded = await warm(at, ["--bytes", String(10 * BLOCK_BYTES + 1)]);
    expect(bounded).toMatchObject({ code: 0, result: { state: "bytes", namespaces: 2, loadedBlocks: 10 } });
    const { namespaces } = await server.status();
    const one = namespaces.find(({ model }) => model === "another/model")?.digest.slice(0, 10) as string;
    const { code, result } = await warm(at, ["--namespace", one]);
    expect({ code, result }).toMatchObject({ code: 0, result: { state: "done", namespaces: 1, listedBlocks: 64 } });
  });

  it("skips and counts a damaged block, and serves it to nobody", async () => {
    const at = place(8 * MEBIBYTE);
    const keys = randomKeys(20);
    await stored(at, keys);
    const file = fileOf(at.root, keys, 7);
    const bytes = readFileSync(file);
    bytes[100] = (bytes[100] as number) ^ 1;
    writeFileSync(file, bytes);
    const server = await serve(at.config);
    const { code, result } = await warm(at);
    expect({ code, result }).toMatchObject({
      code: 1,
      result: { loadedBlocks: 19, corruptBlocks: 1, failedBlocks: 0 },
    });
    const { client } = await connect(server.socket);
    const { outcomes } = await client.load(selectKeys(keys, [7]), [0]);
    expect(outcomes[0]).not.toBe(Outcome.LOADED);
  });

  it("ends at Ctrl-C, in the server too, and says what it has done", async () => {
    const at = place(8 * MEBIBYTE);
    await stored(at, randomKeys(200));
    const server = await serve(at.config);
    const { child, finished } = await start(["warm", "--socket", at.socket, "--json", "--rate", String(SLOW)]);
    await until(async () => ((await server.status()).warm?.counts.loadedBlocks ?? 0) > 0, 20_000);
    child.kill("SIGINT");
    const { code, stdout } = await finished;
    expect(code).toBe(130);
    expect(JSON.parse(stdout)).toMatchObject({ state: "stopped" });
    await until(async () => (await server.status()).warm?.state === "stopped", 20_000);
    expect((await server.status()).warm?.counts.loadedBlocks).toBeLessThan(200);
    expect((await warm(at)).result).toMatchObject({ state: "done" }); // the next one may begin
  });

  it("ends when the server does, and the client hears of it", async () => {
    const at = place(8 * MEBIBYTE);
    await stored(at, randomKeys(200));
    const server = await serve(at.config);
    const { finished } = await start(["warm", "--socket", at.socket, "--rate", String(SLOW)]);
    await until(async () => ((await server.status()).warm?.counts.loadedBlocks ?? 0) > 0, 20_000);
    expect(await server.close()).toBe(true);
    expect(await finished).toMatchObject({ code: 1, stderr: expect.stringContaining("end") });
  });

  it("names the flag and the fix for what it cannot do", async () => {
    const at = place(8 * MEBIBYTE);
    await stored(at, randomKeys(1));
    const server = await serve(at.config);
    const wrong: [string[], number, string][] = [
      [["--bytes", "many"], 2, "--bytes"],
      [["--bytes", "0"], 2, "--bytes"],
      [["--rate", "-1"], 2, "--rate"],
      [["--namespace", "xyz"], 2, "kvferry inspect --stats"],
      [["--namespace", "00000000000"], 2, "--namespace"],
    ];
    for (const [flags, code, text] of wrong) {
      expect(await warm(at, flags), flags.join(" ")).toMatchObject({ code, stderr: expect.stringContaining(text) });
    }
    await server.close();
    const nobody = await warm(at);
    expect(nobody).toMatchObject({ code: 1, stderr: expect.stringContaining(`no kvferry serves at ${at.socket}`) });
  });

  it("is refused while another one is under way, and where there is nothing above", async () => {
    const at = place(8 * MEBIBYTE);
    await stored(at, randomKeys(200));
    const server = await serve(at.config);
    const raw = new RawClient(at.socket);
    onTestFinished(() => raw.connection.close());
    raw.send({ t: "warm", version: 1, bytes: null, rate: SLOW, namespace: "" });
    await until(async () => (await server.status()).warm !== undefined, 20_000);
    expect(await warm(at)).toMatchObject({ code: 1, stderr: expect.stringContaining("under way") });
    raw.connection.close();
    const single = place(8 * MEBIBYTE);
    await serve({ ...single.config, tiers: [{ backend: "posix", root: single.root }] });
    expect(await warm(single)).toMatchObject({ code: 1, stderr: expect.stringContaining("one tier") });
  });
});

describe("warm in the configuration", { timeout: TIMEOUT_MS }, () => {
  it("fills memory at the start, and keeps it until an engine comes", async () => {
    const at = place(8 * MEBIBYTE, { warm: {}, namespaceIdleMs: 1 });
    const keys = randomKeys(100);
    await stored(at, keys);
    const server = await serve(at.config);
    await warmed(server);
    expect((await server.status()).warm).toMatchObject({ startedBy: "start", state: "done", tiers: { memory: 100 } });
    expect((await warm(at)).result).toMatchObject({ loadedBlocks: 0, presentBlocks: 100 }); // nor does this let it go
    await new Promise((resolve) => setTimeout(resolve, 100)); // a namespace that is not kept would have closed
    expect(await hitsOf(server, keys)).toEqual({ memory: 100 });
  });

  it("ends when the server does", async () => {
    const at = place(8 * MEBIBYTE, { warm: { rate: SLOW } });
    await stored(at, randomKeys(200));
    const server = await serve(at.config);
    await until(async () => ((await server.status()).warm?.counts.loadedBlocks ?? 0) > 0, 20_000);
    expect(await server.close()).toBe(true);
    expect((await server.status()).warm).toMatchObject({ state: "stopped", counts: { failedBlocks: 0 } });
  });

  it("takes no place from an engine", async () => {
    const at = place(8 * MEBIBYTE, { warm: {}, limits: { namespacesMax: 1 } });
    const models = ["one", "two"];
    for (const model of models) await stored(at, randomKeys(5), model);
    const server = await serve(at.config);
    await warmed(server);
    expect((await server.status()).warm?.counts).toMatchObject({
      namespaces: 1,
      skippedNamespaces: 1,
      loadedBlocks: 5,
    });
    for (const model of models) {
      const { client } = await connect(at.socket, { namespace: { ...namespace, model } });
      await client.close();
      await until(async () => (await server.status()).sessions.length === 0, 20_000);
    }
  });

  it("fills memory and drive from the last tier, each as far as it goes", async () => {
    const at = place(2 * MEBIBYTE);
    const drive = { backend: "nvme", path: join(at.root, "../drive"), capacity: 64 * MEBIBYTE } as const;
    const [memory, last] = at.config.tiers as [never, never];
    const keys = randomKeys(3 * PER_MEBIBYTE);
    await stored(at, keys);
    const server = await serve({ ...at.config, tiers: [memory, drive, last], warm: {} });
    await warmed(server);
    const loaded = { loadedBlocks: keys.count, droppedBlocks: 0, failedBlocks: 0 };
    const { warm } = await server.status();
    expect(warm).toMatchObject({ state: "full", counts: loaded });
    expect(warm?.tiers).toEqual({ memory: 2 * PER_MEBIBYTE, nvme: keys.count });
    expect(await hitsOf(server, keys)).not.toHaveProperty("posix");
  });

  it("lets an engine in that names vLLM's folders, though nobody had named them before", async () => {
    const at = place(8 * MEBIBYTE, { warm: {} });
    const keys = randomKeys(5);
    await stored(at, keys);
    const server = await serve(at.config);
    await warmed(server);
    const { client } = await connect(at.socket, { vllmFs: { base: "m_0123456789ab", rank: 0, config: "{}" } });
    expect((await client.load(keys, range(5))).outcomes[0]).toBe(Outcome.LOADED);
    expect(await warm(at)).toMatchObject({ code: 0, result: { presentBlocks: 5 } });
  });
});

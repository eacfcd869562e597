// What an operator does with the storage itself: check it, clean it, look into it.
import { readdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type KeyBatch, keyAt } from "@kvferry/core";
import { describe, expect, it } from "vitest";
import { run, serveConfig, serveInChild, start } from "./child-server.js";
import { connect, fill, randomKeys, range, scratch } from "./helpers.js";

const TIMEOUT_MS = 60_000;
const hex = (keys: KeyBatch, i: number): string => Buffer.from(keyAt(keys, i)).toString("hex");

/** A server that has stored `count` blocks and goes on serving. */
async function stored(count: number) {
  const folder = scratch();
  const { root, socket } = await serveInChild(folder);
  const { client, region } = await connect(socket);
  const keys = randomKeys(count);
  fill(region, keys, range(count));
  await client.store(keys, range(count));
  const files = new Map(
    readdirSync(root, { recursive: true, encoding: "utf8" })
      .filter((path) => path.endsWith(".kvb"))
      .map((path) => [path.slice(path.lastIndexOf("/") + 1, -".kvb".length), join(root, path)]),
  );
  return { folder, root, client, keys, fileOf: (i: number) => files.get(hex(keys, i)) as string };
}

describe("kvferry verify", { timeout: TIMEOUT_MS }, () => {
  it("finds damage beside a running server, sets it aside and says so", async () => {
    const { root, client, keys, fileOf } = await stored(20);
    const sound = await run(["verify", "--data", root]);
    expect(sound).toMatchObject({ code: 0, stdout: expect.stringContaining("20 blocks") });
    expect(sound.stdout).toContain("all sound");
    const bytes = readFileSync(fileOf(3));
    bytes[100] = (bytes[100] as number) ^ 1;
    writeFileSync(fileOf(3), bytes);
    const damaged = await run(["verify", "--data", root, "--json"]);
    expect(damaged.code).toBe(1);
    expect(JSON.parse(damaged.stdout)).toMatchObject({
      interrupted: false,
      namespaces: [{ tier: "posix", blocks: 20, sound: 19, corrupt: 1, failed: 0 }],
    });
    expect((await run(["verify", "--data", root])).stdout).toContain("19 blocks");
    expect([...(await client.load(keys, range(20))).outcomes].filter((outcome) => outcome !== 4)).toHaveLength(1);
  });

  it("keeps to its rate, and ends in order at Ctrl-C with what it has counted", async () => {
    const { root } = await stored(40);
    const { child, finished } = await start([...["verify", "--data", root, "--json", "--rate", "1KiB"]]);
    child.kill("SIGINT");
    const { code, signal, stdout } = await finished;
    // it may have been too early for an orderly end
    if (signal === null) expect({ code, ...JSON.parse(stdout) }).toMatchObject({ code: 130, interrupted: true });
    else expect(signal).toBe("SIGINT");
  });

  it("reads the segments of a drive, once no server has it any more", async () => {
    const folder = scratch();
    const file = join(folder, "kvferry.yaml");
    const socket = join(folder, "s");
    const tier = { backend: "nvme", path: join(folder, "nvme"), capacity: "64MiB" };
    writeFileSync(file, JSON.stringify({ socket, http: "off", tiers: [tier] }));
    const server = await serveConfig(file, socket);
    const { client, region } = await connect(socket);
    const keys = randomKeys(8);
    fill(region, keys, range(8));
    await client.store(keys, range(8));
    const busy = await run(["verify", "--config", file]);
    expect(busy).toMatchObject({ code: 1, stderr: expect.stringContaining("another process uses this drive") });
    server.child.kill("SIGKILL");
    await server.finished;
    const sound = await run(["verify", "--config", file, "--json"]);
    expect(JSON.parse(sound.stdout)).toMatchObject({ namespaces: [{ tier: "nvme", blocks: 8, sound: 8 }] });
    const found = await run(["inspect", hex(keys, 2), "--config", file]);
    expect(found).toMatchObject({ code: 0, stdout: expect.stringContaining("sound, CRC-32C") });
  });

  it("says what is wrong with its flags", async () => {
    const root = scratch();
    expect(await run(["verify", "--data", root])).toMatchObject({ code: 0, stdout: "nothing is stored\n" });
    for (const [args, fix] of [
      [["--data", root, "--rate", "fast"], "--rate"],
      [["--data", root, "--tier", "nvme"], "--tier: there is no nvme; there are posix"],
      [["--data", root, "--namespace", "abc"], "--namespace"],
      [["--data", root, "--config", "x"], "not both"],
    ] as const) {
      const { code, stderr } = await run(["verify", ...args]);
      expect({ code, stderr }).toMatchObject({ code: 2, stderr: expect.stringContaining(fix) });
    }
  });
});

describe("kvferry gc", { timeout: TIMEOUT_MS }, () => {
  it("removes what nobody has used for long, after it was asked what that would be", async () => {
    const { root, fileOf } = await stored(10);
    const long = new Date(Date.now() - 40 * 86_400_000);
    for (const i of range(4)) utimesSync(fileOf(i), long, long);
    const dry = await run(["gc", "--data", root, "--unused-for", "30d", "--dry-run"]);
    expect(dry.stdout).toContain("4 of 10 blocks unused for 30d");
    expect(dry.stdout).toContain("nothing removed");
    const real = await run(["gc", "--data", root, "--unused-for", "30d", "--json"]);
    expect(JSON.parse(real.stdout)).toMatchObject({ namespaces: [{ seen: 10, unused: 4, removed: 4, failed: 0 }] });
    expect((await run(["gc", "--data", root, "--unused-for", "30d"])).stdout).toContain("0 of 6 blocks");
    expect(await run(["gc", "--data", root])).toMatchObject({ code: 2 });
    expect(await run(["gc", "--data", root, "--unused-for", "long"])).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("30d or 12h"),
    });
  });
});

describe("kvferry inspect", { timeout: TIMEOUT_MS }, () => {
  it("tells where a block is, and whether it is sound", async () => {
    const { root, keys } = await stored(3);
    const found = await run(["inspect", hex(keys, 1), "--data", root, "--json"]);
    expect(found.code).toBe(0);
    expect(JSON.parse(found.stdout)).toMatchObject({
      blocks: [{ tier: "posix", place: root, outcome: "LOADED", crc32c: expect.stringMatching(/^[0-9a-f]{8}$/) }],
    });
    const absent = await run(["inspect", hex(randomKeys(1), 0), "--data", root]);
    expect(absent).toMatchObject({ code: 1, stdout: "no tier has this block\n" });
    expect((await run(["inspect", "xyz", "--data", root])).code).toBe(2);
    expect((await run(["inspect", "--data", root])).code).toBe(2);
  });

  it("counts what is stored, by age", async () => {
    const { root } = await stored(5);
    const { stdout } = await run(["inspect", "--stats", "--data", root, "--json"]);
    expect(JSON.parse(stdout)).toMatchObject({
      namespaces: [{ blocks: 5, keyBytes: 36, blockBytes: 16_384, unused: { hour: 5, day: 0 } }],
    });
    expect((await run(["inspect", "--stats", "--data", root])).stdout).toContain("5 blocks of 16.0 KiB");
  });
});

import { existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { type KvferryError, Outcome } from "@kvferry/core";
import { createRegion } from "@kvferry/native";
import { KvferryClient } from "@kvferry/protocol";
import { describe, expect, it, onTestFinished } from "vitest";
import { run, serveInChild, start } from "./child-server.js";
import { connect, fill, freePort, holds, KEY_BYTES, namespace, randomKeys, range, scratch, until } from "./helpers.js";

const TIMEOUT_MS = 60_000;
const BLOCK_BYTES = 256 * 1024;

describe("kvferry serve", { timeout: TIMEOUT_MS }, () => {
  it("needs no configuration, makes its folders for its user alone, and is ready at /readyz", async () => {
    const folder = scratch();
    const env = { XDG_DATA_HOME: join(folder, "data"), XDG_RUNTIME_DIR: join(folder, "run") };
    const port = await freePort();
    await start(["serve", "--http", `127.0.0.1:${port}`], env);
    const url = `http://127.0.0.1:${port}`;
    await until(async () => (await fetch(`${url}/readyz`).catch(() => undefined))?.status === 200, 20_000);
    const socket = join(folder, "run/kvferry/kvferry.sock");
    expect(statSync(socket).mode & 0o777).toBe(0o600);
    expect(statSync(join(folder, "run/kvferry")).mode & 0o777).toBe(0o700);
    const { client, region } = await connect(socket);
    const keys = randomKeys(4);
    fill(region, keys, range(4));
    await client.store(keys, range(4));
    expect(readdirSync(join(folder, "data/kvferry"))).toEqual([client.welcome.digest]);

    const status = await run(["status", "--http", `127.0.0.1:${port}`]);
    expect(status).toMatchObject({ code: 0 });
    expect(status.stdout).toContain("stored 4");
    const json = await run(["status", "--json", "--http", `127.0.0.1:${port}`]);
    expect(JSON.parse(json.stdout)).toMatchObject({ state: "serving", namespaces: [{ model: namespace.model }] });
    const metrics = await (await fetch(`${url}/metrics`)).text();
    expect(metrics).toContain(
      'kvferry_backend_keys_total{backend="posix",operation="store",outcome="stored",code=""} 4',
    );
  });

  it("refuses a socket that another server serves, with exit code 3 and what to do", async () => {
    const folder = scratch();
    const first = await serveInChild(folder);
    const second = await run(["serve", "--socket", first.socket, "--data", first.root, "--http", "off"]);
    expect(second.code).toBe(3);
    expect(second.stderr).toContain(`another kvferry serves ${first.socket}`);
    await (await connect(first.socket)).client.ping();
  });

  it("takes the socket that a killed server left behind", async () => {
    const folder = scratch();
    const first = await serveInChild(folder);
    first.child.kill("SIGKILL");
    await first.finished;
    expect(existsSync(first.socket)).toBe(true);
    const second = await serveInChild(folder);
    await (await connect(second.socket)).client.ping();
  });

  it("refuses a port that is taken, with exit code 3 and what to do", async () => {
    const taken = createServer().listen(0, "127.0.0.1");
    onTestFinished(() => void taken.close());
    await until(() => taken.listening);
    const { port } = taken.address() as AddressInfo;
    const folder = scratch();
    const ended = await run(["serve", "--socket", join(folder, "s"), "--data", folder, "--http", `127.0.0.1:${port}`]);
    expect(ended.code).toBe(3);
    expect(ended.stderr).toMatch(/port \d+ of 127.0.0.1 is taken.*--http/);
    expect(existsSync(join(folder, "s"))).toBe(false);
  });

  it("refuses a wrong configuration with exit code 2, the line and the fix", async () => {
    const file = join(scratch(), "kvferry.yaml");
    writeFileSync(file, "socket: /tmp/s\nteirs: []\n");
    for (const args of [
      ["serve", "--config", file],
      ["config", "check", file],
    ]) {
      const ended = await run(args);
      expect(ended.code).toBe(2);
      expect(ended.stderr).toContain(`${file}:2: unknown field 'teirs'; did you mean 'tiers'?`);
    }
    expect(JSON.parse((await run(["config", "schema"])).stdout)).toHaveProperty("properties.tiers");
  });

  it("refuses storage that it cannot use, and a socket folder that others may write to", async () => {
    const folder = scratch();
    writeFileSync(join(folder, "file"), "");
    const args = ["serve", "--http", "off", "--data", join(folder, "file")];
    const notAFolder = await run([...args, "--socket", join(folder, "s")]);
    expect(notAFolder.code).toBe(1);
    expect(notAFolder.stderr).toContain(`the storage folder ${join(folder, "file")} cannot be used`);
    mkdirSync(join(folder, "kvferry"), { mode: 0o777 });
    writeFileSync(join(folder, "x"), "");
    const { chmodSync } = await import("node:fs");
    chmodSync(join(folder, "kvferry"), 0o777);
    const open = await run(["serve", "--http", "off", "--data", folder], { XDG_RUNTIME_DIR: folder });
    expect(open.code).toBe(1);
    expect(open.stderr).toContain("others may write");
  });

  it.each(["SIGTERM", "SIGINT"] as const)(
    "drains at %s: what is under way is stored and answered, then it exits 0",
    async (signal) => {
      const server = await serveInChild(scratch());
      let drained = false;
      const { client, region } = await connect(server.socket, {
        blockBytes: BLOCK_BYTES,
        onDrain: () => {
          drained = true;
        },
      });
      const keys = randomKeys(64);
      fill(region, keys, range(64), BLOCK_BYTES);
      const storing = client.store(keys, range(64));
      await client.ping(); // the store has arrived
      server.child.kill(signal);
      expect([...(await storing).outcomes]).toEqual(new Array(64).fill(Outcome.STORED));
      const { code, stderr } = await server.finished;
      expect(code).toBe(0);
      expect(drained).toBe(true);
      expect(await client.closed).toBeUndefined();
      expect(existsSync(server.socket)).toBe(false);
      expect(stderr).toContain('"msg":"ended"');
    },
  );

  it("ends at once at the second signal", async () => {
    const server = await serveInChild(scratch());
    let onDrain!: () => void;
    const draining = new Promise<void>((resolve) => {
      onDrain = resolve;
    });
    const { client } = await connect(server.socket, { blockBytes: BLOCK_BYTES, onDrain });
    const storing = client.store(
      randomKeys(4096),
      range(4096).map((i) => i % 64),
    );
    storing.catch(() => {});
    await client.ping(); // the store has arrived, and takes a while
    server.child.kill("SIGTERM");
    await draining;
    server.child.kill("SIGINT");
    expect(await server.finished).toMatchObject({ code: 128 + 2 });
    await expect(storing).rejects.toMatchObject({ code: "UNAVAILABLE" });
  });
});

describe("a server that is killed while it stores", () => {
  const rounds = Number(process.env.KVFERRY_KILL_ROUNDS ?? (process.env.KVFERRY_LONG === "1" ? 100 : 20));

  it(`leaves no wrong byte, no leftover and no client that waits (${rounds} rounds)`, {
    timeout: rounds * 20_000,
  }, async () => {
    const folder = scratch();
    const stored: Uint8Array[] = [];
    let killedWhileStoring = 0;
    for (let round = 0; round < rounds; round++) {
      const server = await serveInChild(folder);
      const region = createRegion({ rows: 64, rowBytes: BLOCK_BYTES });
      const client = await KvferryClient.connect({ socket: server.socket, namespace, keyBytes: KEY_BYTES, region });
      await verify(client, region, stored.slice(-3));
      const killer = setTimeout(() => server.child.kill("SIGKILL"), Math.random() * 60);
      for (;;) {
        const keys = randomKeys(64);
        fill(region, keys, range(64), BLOCK_BYTES);
        stored.push(keys.bytes);
        try {
          await client.store(keys, range(64));
        } catch (error) {
          expect((error as KvferryError).code).toBe("UNAVAILABLE");
          killedWhileStoring++;
          break;
        }
      }
      clearTimeout(killer);
      await client.closed;
      await server.finished;
      region.close();
    }
    expect(killedWhileStoring).toBe(rounds);
    const server = await serveInChild(folder);
    const region = createRegion({ rows: 64, rowBytes: BLOCK_BYTES });
    const client = await KvferryClient.connect({ socket: server.socket, namespace, keyBytes: KEY_BYTES, region });
    const { loaded, missing } = await verify(client, region, stored);
    expect(loaded).toBeGreaterThan(0);
    expect(loaded + missing).toBe(stored.length * 64);
    const own = readdirSync(join(server.root, client.welcome.digest, "tmp"));
    expect(own.length).toBeLessThanOrEqual(1); // of the server that runs now
    expect(
      existsSync(join(server.root, client.welcome.digest, "quarantine"))
        ? readdirSync(join(server.root, client.welcome.digest, "quarantine"))
        : [],
    ).toEqual([]);
    await client.close();
    region.close();
  });

  async function verify(
    client: KvferryClient,
    region: ReturnType<typeof createRegion>,
    batches: readonly Uint8Array[],
  ): Promise<{ loaded: number; missing: number }> {
    let loaded = 0;
    let missing = 0;
    for (const bytes of batches) {
      const keys = { bytes, stride: KEY_BYTES, count: 64 };
      const { outcomes } = await client.load(keys, range(64));
      for (const [i, outcome] of outcomes.entries()) {
        if (outcome === Outcome.MISS) missing++;
        else if (outcome === Outcome.LOADED && holds(region, keys, i, i, BLOCK_BYTES)) loaded++;
        else throw new Error(`block ${i} has outcome ${outcome} or wrong bytes`);
      }
    }
    return { loaded, missing };
  }
});

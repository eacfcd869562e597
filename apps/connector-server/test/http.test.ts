import { rmSync, writeFileSync } from "node:fs";
import { defineManifest, type Logger, Outcome, uniformResult } from "@kvferry/core";
import { describe, expect, it } from "vitest";
import { Throttle } from "../src/log.js";
import { GatedBackend } from "./gated-backend.js";
import { connect, fill, randomKeys, range, serve, until, welcomed } from "./helpers.js";

async function text(url: string): Promise<{ status: number; body: string }> {
  const response = await fetch(url);
  return { status: response.status, body: await response.text() };
}

describe("http", () => {
  it("counts what engines do, in base units and by operation and outcome", async () => {
    const { server, socket } = await serve({ http: "127.0.0.1:0" });
    const url = `http://127.0.0.1:${server.http?.port}`;
    const { client, region } = await connect(socket);
    const keys = randomKeys(8);
    fill(region, keys, range(8));
    await client.lookup(keys);
    await client.store(keys, range(8));
    await client.load(keys, range(8));
    await expect(client.load(keys, range(8, 60))).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    const { body } = await text(`${url}/metrics`);
    for (const line of [
      'kvferry_requests_total{operation="lookup",result="ok"} 1',
      'kvferry_requests_total{operation="load",result="INVALID_ARGUMENT"} 1',
      'kvferry_backend_keys_total{backend="posix",operation="lookup",outcome="miss",code=""} 8',
      'kvferry_backend_keys_total{backend="posix",operation="store",outcome="stored",code=""} 8',
      'kvferry_backend_bytes_total{backend="posix",operation="load"} 131072',
      'kvferry_request_seconds_count{operation="store"} 1',
      'kvferry_request_keys_sum{operation="store"} 8',
      'kvferry_stored_blocks{tier="posix"} 8',
      "kvferry_connections 1",
      "kvferry_connections_total 1",
      "kvferry_breaker_state 0",
      "kvferry_requests_unanswered 0",
    ]) {
      expect(body.split("\n")).toContain(line);
    }
    expect(body).toMatch(/kvferry_process_resident_memory_bytes \d+/);
    const status = JSON.parse((await text(`${url}/v1/status`)).body);
    expect(status).toMatchObject({
      state: "serving",
      socket,
      sessions: [{ client: "kvferry-client 0", requests: 0 }],
      namespaces: [
        {
          sessions: 1,
          tiers: [{ name: "posix", circuit: "closed", usage: { blocks: 8 } }],
          misses: { never_stored: 8, evicted: 0 },
        },
      ],
      tiers: [{ name: "posix", backend: "posix", queue: { running: 0 } }],
    });
    expect((await text(`${url}/healthz`)).status).toBe(200);
    expect((await text(`${url}/nothing`)).status).toBe(404);
  });

  it("is ready as long as the storage can be used", async () => {
    const { server, root } = await serve({ http: "127.0.0.1:0" });
    const url = `http://127.0.0.1:${server.http?.port}/readyz`;
    expect(await text(url)).toEqual({ status: 200, body: "ready\n" });
    rmSync(root, { recursive: true });
    writeFileSync(root, "");
    expect(await text(url)).toMatchObject({ status: 503, body: expect.stringContaining(root) });
  });

  it("shows that the storage is in trouble; engines get misses instead of waiting for it", async () => {
    class Broken extends GatedBackend {
      override readonly manifest = defineManifest({ name: "broken", capabilities: { verifiesPayload: true } });
      protected override async _load(...[{ keys }]: Parameters<GatedBackend["_load"]>) {
        return uniformResult(keys.count, Outcome.FAILED, "IO");
      }
      protected override async _lookup(...[keys]: Parameters<GatedBackend["_lookup"]>) {
        return new Uint8Array(keys.count).fill(1);
      }
    }
    const { server, socket } = await serve({ http: "127.0.0.1:0" }, { createBackend: () => new Broken() });
    const { client } = await connect(socket);
    for (let i = 0; i < 20; i++) await client.load(randomKeys(1), [0]);
    const { body } = await text(`http://127.0.0.1:${server.http?.port}/metrics`);
    expect(body).toContain("kvferry_breaker_state 2");
    expect((await server.status()).namespaces[0]?.tiers[0]?.circuit).toBe("open");
    expect([...(await client.lookup(randomKeys(2)))]).toEqual([0, 0]);
  });
});

describe("the log", () => {
  it("holds no keys, and no more lines than a few about clients that do wrong", async () => {
    const lines: string[] = [];
    const write = (facts: object, message: string): void => void lines.push(`${message} ${JSON.stringify(facts)}`);
    const logger: Logger = { debug() {}, info: write, warn: write, error: write };
    const { socket } = await serve({}, { logger });
    const { client, region } = await connect(socket);
    const keys = randomKeys(2);
    fill(region, keys, range(2));
    await client.store(keys, range(2));
    for (let i = 0; i < 50; i++) {
      const { raw } = await welcomed(socket);
      raw.connection.send(Uint8Array.of(0, 0, 0, 0));
      await raw.closed;
    }
    await until(() => lines.length > 20);
    expect(lines.filter((line) => line.startsWith("ending a connection")).length).toBeLessThanOrEqual(20);
    expect(lines.join("\n")).not.toContain(Buffer.from(keys.bytes.subarray(0, 16)).toString("hex"));
  });

  it("counts the lines that it leaves out", () => {
    const throttle = new Throttle();
    const allowed = range(30).filter(() => throttle.next(0).allowed);
    expect(allowed).toHaveLength(20);
    expect(throttle.next(10_000)).toEqual({ allowed: true, suppressed: 10 });
  });
});

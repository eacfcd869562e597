import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createMemoryRegion, createNamespace, LookupState, Outcome, packKeys, silentLogger } from "@kvferry/core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Sshd, sshdBinary, startSshd } from "../../../scripts/lib/sshd.mjs";
import { checkConfigText } from "../src/index.js";
import { startStorage } from "../src/storage/storage.js";
import { resolveTiers, type TierConfig } from "../src/storage/tier-config.js";
import { run, serveConfig } from "./child-server.js";
import { connect, fill, holds, KEY_BYTES, namespace, randomKeys, range, scratch, until } from "./helpers.js";
import { posixStorage, put, sound } from "./storages.js";

const LIMITS = { operationsMax: 16, batchKeysMax: 4096 };
const BLOCK_BYTES = 65_536;
const sink = { count() {}, observe() {}, gauge() {} };
const missing = sshdBinary() === undefined;
const reason = missing ? " (no sshd: node scripts/setup-system.mjs)" : "";

describe.skipIf(missing)(`a tier over SFTP${reason}`, { timeout: 60_000 }, () => {
  let server: Sshd;
  const folder = mkdtempSync(join(tmpdir(), "kvferry-sftp-tier-"));

  beforeAll(async () => {
    server = await startSshd();
  }, 40_000);
  afterAll(async () => {
    await server.stop();
    rmSync(folder, { recursive: true, force: true });
  }, 40_000);

  it("below host memory: a server that was killed is back with every block, and a frozen host is an empty cache", async () => {
    const place = scratch();
    const [file, socket] = [join(place, "kvferry.yaml"), join(place, "s")];
    const { host, port, user, keyFile: privateKeyFile, hostKey } = server;
    const sftp = { backend: "sftp", host, port, user, root: join(folder, "served"), privateKeyFile, hostKey };
    const tiers = [
      { backend: "memory", capacity: "16MiB" },
      { ...sftp, deadlineMs: 500 },
    ];
    writeFileSync(file, JSON.stringify({ socket, http: "off", tiers }));
    const keys = randomKeys(24);
    const first = await serveConfig(file, socket);
    const storing = await connect(socket);
    fill(storing.region, keys, range(24));
    expect(new Set((await storing.client.store(keys, range(24))).outcomes)).toEqual(new Set([Outcome.STORED]));
    const hits = async (client: typeof storing.client): Promise<number> =>
      (await client.lookup(keys)).filter((state) => state === LookupState.HIT).length;
    expect(await hits(storing.client)).toBe(24);
    await storing.client.close();
    first.child.kill("SIGTERM"); // what is written back is written before it ends
    await first.finished;

    await serveConfig(file, socket);
    const { client, region } = await connect(socket);
    expect(await hits(client)).toBe(24);
    expect(new Set((await client.load(keys, range(24))).outcomes)).toEqual(new Set([Outcome.LOADED]));
    for (const i of range(24)) expect(holds(region, keys, i, i)).toBe(true);

    server.signalSessions("SIGSTOP");
    try {
      const others = randomKeys(8);
      // the first may wait for the tier's deadline; then its breaker is open
      for (let i = 0; i < 12; i++) expect(Math.max(...(await client.lookup(others)))).toBe(LookupState.MISS);
      expect(new Set((await client.load(keys, range(24))).outcomes)).toEqual(new Set([Outcome.LOADED])); // from memory
    } finally {
      server.signalSessions("SIGCONT");
    }
    const late = randomKeys(2);
    fill(region, late, [0, 1]);
    await until(async () => {
      const { outcomes } = await client.store(late, [0, 1]);
      return outcomes.every((outcome) => outcome === Outcome.STORED || outcome === Outcome.PRESENT);
    }, 40_000);
  });

  it("is a place to copy from and to", async () => {
    const { host, port, user, keyFile, hostKey } = server;
    const how = new URLSearchParams({ privateKeyFile: keyFile, hostKey });
    const remote = `sftp:${user}@${host}:${port}${join(folder, "copied")}?${how}`;
    const [from, back] = [posixStorage(), posixStorage()];
    const keys = randomKeys(20);
    await put(from, keys);
    expect(await run(["copy", from.argument, remote])).toMatchObject({ code: 0 });
    expect(await run(["copy", from.argument, remote])).toMatchObject({ code: 0 }); // there is nothing to do
    expect(await run(["copy", remote, back.argument])).toMatchObject({ code: 0 });
    expect(await sound(back, keys)).toEqual(range(20));
  });

  it("is configured by a file, keeps blocks over a restart, and tells whose they are", async () => {
    const text = `tiers:
  - backend: sftp
    host: ${server.host}
    port: ${server.port}
    user: ${server.user}
    root: ${folder}
    privateKeyFile: ${server.keyFile}
    hostKey: ${server.hostKey}
`;
    const { config, problems } = checkConfigText(text);
    expect(problems).toEqual([]);
    const tiers = resolveTiers(config.tiers as readonly TierConfig[]);
    const keys = packKeys([new Uint8Array(KEY_BYTES).fill(1), new Uint8Array(KEY_BYTES).fill(2)]);
    const slots = Uint32Array.of(0, 1);
    const region = createMemoryRegion(2, BLOCK_BYTES);
    region.bytes.fill(5, 0, BLOCK_BYTES).fill(6, BLOCK_BYTES);
    for (const [call, outcome] of [
      ["store", Outcome.STORED],
      ["load", Outcome.LOADED],
    ] as const) {
      const storage = await startStorage(tiers, LIMITS, silentLogger);
      const context = { namespace: createNamespace(namespace), keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES };
      const { backend } = storage.createBackend(context.namespace, { ...context, vllmFs: undefined }, sink);
      await backend.open(context);
      const into = call === "store" ? region : createMemoryRegion(2, BLOCK_BYTES);
      expect([...(await backend[call]({ keys, region: into, slots })).outcomes]).toEqual([outcome, outcome]);
      expect(Buffer.compare(into.bytes, region.bytes)).toBe(0);
      await backend.close();
      expect(await storage.tiers[0]?.namespaces()).toMatchObject([{ keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES }]);
      await storage.close();
    }
  });
});

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createMemoryRegion, createNamespace, Outcome, packKeys, silentLogger } from "@kvferry/core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Sshd, sshdBinary, startSshd } from "../../../scripts/lib/sshd.mjs";
import { checkConfigText } from "../src/index.js";
import { startStorage } from "../src/storage/storage.js";
import { resolveTiers, type TierConfig } from "../src/storage/tier-config.js";
import { KEY_BYTES, namespace } from "./helpers.js";

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

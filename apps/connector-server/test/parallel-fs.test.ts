import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { makeStandIn, missing } from "../../../packages/backend-parallel-fs/test/stand-in.js";
import { run, start } from "./child-server.js";
import { connect, fill, freePort, randomKeys, range, scratch, until } from "./helpers.js";

const TIMEOUT_MS = 60_000;

/** A configuration with one tier. */
function configured(folder: string, tier: Record<string, unknown>, http = "off"): { file: string; socket: string } {
  const socket = join(folder, "kvferry.sock");
  const file = join(folder, "kvferry.yaml");
  writeFileSync(file, JSON.stringify({ socket, http, tiers: [{ backend: "parallel-fs", ...tier }] })); // JSON is YAML
  return { file, socket };
}

describe("a tier on a parallel file system", { timeout: TIMEOUT_MS }, () => {
  it.skipIf(missing !== undefined)(
    `serves a stand-in for Lustre, and tells how full its OSTs are${missing ? `: ${missing}` : ""}`,
    async () => {
      const standIn = await makeStandIn({ kind: "lustre" });
      onTestFinished(standIn.remove);
      await standIn.setOsts([40, 75]);
      const port = await freePort();
      const tier = { root: standIn.root, stripeCount: 1, stripeSize: "1MiB", pool: "flash", capacity: "1GiB" };
      const { file, socket } = configured(scratch(), tier, `127.0.0.1:${port}`);
      await start(["serve", "--config", file], standIn.env);
      await until(
        async () => (await fetch(`http://127.0.0.1:${port}/readyz`).catch(() => undefined))?.status === 200,
        20_000,
      );
      const { client, region } = await connect(socket);
      const keys = randomKeys(4);
      fill(region, keys, range(4));
      await client.store(keys, range(4));
      const metrics = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
      expect(metrics).toContain('kvferry_lustre_fullest_ost_ratio{tier="parallel-fs"} 0.75');
      expect(metrics).toContain('kvferry_lustre_osts_away{tier="parallel-fs"} 0');
      expect(metrics).toContain('{backend="parallel-fs",operation="store",outcome="stored",code=""} 4');
      const calls = await standIn.lfsCalls();
      expect(calls).toContain(`setstripe -c 1 -S 1048576 -p flash ${join(standIn.root, client.welcome.digest)}`);
    },
  );

  it("is refused anywhere else, with the field and the way out", async () => {
    const folder = scratch();
    const { file } = configured(folder, { root: join(folder, "blocks") });
    const ended = await run(["serve", "--config", file]);
    expect(ended.code).not.toBe(0);
    expect(ended.stderr).toContain("use the backend posix");
  });

  it("is refused with settings that cannot be, before it starts", async () => {
    const folder = scratch();
    const { file } = configured(folder, { root: folder, stripeSize: "1MiB", pool: "fs.pool" });
    const ended = await run(["serve", "--config", file]);
    expect(ended).toMatchObject({ code: 2, stderr: expect.stringContaining("tiers[0].pool") });
  });
});

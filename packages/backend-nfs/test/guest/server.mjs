// The server with a tier on NFS: node server.mjs v3|v4
import { strict as assert } from "node:assert";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { sleep } from "./blocks.mjs";

const version = process.argv[2];
const PROGRAM = "apps/connector-server/bin/kvferry.js";

function serve(root, http) {
  const folder = mkdtempSync("/run/tmp/server-");
  const file = join(folder, "kvferry.yaml");
  writeFileSync(file, `socket: ${folder}/socket\nhttp: ${http}\ntiers: [{ backend: nfs, root: ${root} }]\n`);
  const server = spawn(process.execPath, [PROGRAM, "serve", "--config", file], { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [server.stdout, server.stderr]) stream.on("data", (text) => (output += text));
  return { server, exit: once(server, "exit"), output: () => output };
}

describe(`the server over NFS ${version}`, () => {
  it("says what could be better with the mount, and counts what the client does", async () => {
    const port = version === "v3" ? 9463 : 9464;
    const { server, exit, output } = serve(`/run/nfs/c1${version}/served`, `127.0.0.1:${port}`);
    const get = async (path) => (await fetch(`http://127.0.0.1:${port}${path}`)).text();
    for (let ready = false; !ready; await sleep(100)) {
      assert.equal(server.exitCode, null, output());
      ready = await fetch(`http://127.0.0.1:${port}/readyz`)
        .then(({ ok }) => ok)
        .catch(() => false);
    }
    const metrics = await get("/metrics");
    for (const name of ["requests", "retransmissions", "timeouts"]) {
      assert.match(metrics, new RegExp(`^kvferry_nfs_${name}_total\\{tier="nfs"\\} \\d+$`, "m"));
    }
    assert.doesNotMatch(metrics, /^kvferry_nfs_requests_total\{tier="nfs"\} 0$/m);
    assert.match(output(), /mount option nconnect/);
    server.kill("SIGTERM");
    assert.deepEqual(await exit, [0, null]);
  });

  it("does not start where the root is not on NFS, and says what to use there", async () => {
    const { exit, output } = serve("/run/tmp/local", "off");
    const [code] = await exit;
    assert.notEqual(code, 0);
    assert.match(output(), /on tmpfs \(mounted on \/run\), not on NFS; use the backend posix there/);
  });
});

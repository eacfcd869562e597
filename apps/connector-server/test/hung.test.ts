import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { LookupState, Outcome, packedKeys } from "@kvferry/core";
import { describe, expect, it, onTestFinished } from "vitest";
import { fuseProblem, mountFuseFaults } from "../../../scripts/lib/fuse-faults.mjs";
import type { NamespaceTierStatus, ServerStatus } from "../src/index.js";
import { serveConfig } from "./child-server.js";
import { connect, fill, freePort, holds, KEY_BYTES, randomKeys, range, scratch, until } from "./helpers.js";

const TIMEOUT_MS = 180_000;
const BLOCK_BYTES = 65_536;
const BLOCKS = 32;
const THREADS = 4;
const problem = fuseProblem();
const suite = problem === undefined ? describe : describe.skip;

async function served() {
  const mount = await mountFuseFaults();
  onTestFinished(() => mount.unmount(), TIMEOUT_MS);
  const folder = scratch();
  const socket = join(folder, "s");
  const port = await freePort();
  const file = join(folder, "kvferry.yaml");
  // memory for one of the two lots of blocks that a test stores
  writeFileSync(
    file,
    `socket: ${socket}
http: 127.0.0.1:${port}
drainTimeoutMs: 1000
tiers:
  - { backend: memory, capacity: ${(BLOCKS + 4) * BLOCK_BYTES}, deadlineMs: 700 }
  - { backend: posix, root: ${mount.folder}/root, abandonable: true, threads: ${THREADS}, deadlineMs: 700 }
`,
  );
  const server = await serveConfig(file, socket);
  const { client, region } = await connect(socket, { blockBytes: BLOCK_BYTES });
  const load = async (keys = randomKeys(BLOCKS)) => {
    region.bytes.fill(0);
    const { outcomes } = await client.load(keys, range(BLOCKS));
    for (const [i, outcome] of outcomes.entries())
      if (outcome === Outcome.LOADED) expect(holds(region, keys, i, i, BLOCK_BYTES)).toBe(true);
    return outcomes.filter((each) => each === Outcome.LOADED).length;
  };
  const store = async (keys = randomKeys(BLOCKS)) => {
    fill(region, keys, range(BLOCKS), BLOCK_BYTES);
    await client.store(keys, range(BLOCKS));
    return keys;
  };
  return { mount, server, client, load, store, url: `http://127.0.0.1:${port}` };
}

async function tiersOf(url: string): Promise<readonly NamespaceTierStatus[]> {
  const { namespaces } = (await (await fetch(`${url}/v1/status`)).json()) as ServerStatus;
  return namespaces[0]?.tiers ?? [];
}

suite(`a tier whose file system hangs${problem === undefined ? "" : `: ${problem}`}`, { timeout: TIMEOUT_MS }, () => {
  it("ends every call, leaves the other tier, health and metrics alone, and is used again when it is back", async () => {
    const { mount, server, client, load, store, url } = await served();
    const below = await store();
    const inMemory = await store();
    expect(await load(below)).toBe(BLOCKS);
    expect(await load(inMemory)).toBe(BLOCKS);
    await mount.stop();

    do {
      for (let round = 0; round < 5; round++) {
        const asked = packedKeys(Buffer.concat([below.bytes, randomKeys(8).bytes]), KEY_BYTES);
        await Promise.allSettled([load(below), client.lookup(asked), client.ping()]); // they end
      }
    } while ((await tiersOf(url))[1]?.circuit === "closed");
    expect([...(await client.lookup(randomKeys(8)))]).toEqual(new Array(8).fill(LookupState.MISS));
    const kept = await store();
    expect(await load(kept)).toBe(BLOCKS); // from memory
    expect((await fetch(`${url}/healthz`)).status).toBe(200);
    expect((await fetch(`${url}/readyz`)).status).toBe(503);
    expect(await (await fetch(`${url}/metrics`)).text()).toMatch(/kvferry_stuck_threads\{tier="posix"\} \d/);
    // the engine's, as many in their place, the one that watches, and Node's
    expect(readdirSync(`/proc/${server.child.pid}/task`).length).toBeLessThan(100);

    mount.resume();
    await until(async () => (await load(below)) === BLOCKS, TIMEOUT_MS / 2);
    await until(async () => (await fetch(`${url}/readyz`)).status === 200, TIMEOUT_MS / 2);
  });

  it("does not keep the server from ending", async () => {
    const { mount, server, load, store, url } = await served();
    const below = await store();
    await store();
    // FUSE keeps even a killed process while a request that the daemon has taken is not answered (NFS does not): none may be under way
    await until(async () => (await tiersOf(url))[1]?.usage?.blocks === 2 * BLOCKS, TIMEOUT_MS / 2);
    await mount.stop();
    const loading = load(below).catch(() => {});
    server.child.kill("SIGTERM");
    const { code, signal, stderr } = await server.finished;
    expect({ code, signal, stderr }).toMatchObject({
      code: 0,
      signal: null,
      stderr: expect.stringContaining('"ended"'),
    });
    await loading;
  });
});

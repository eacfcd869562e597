// Two hosts over one share, each with a server and an engine that asks it; the storage, the network and the servers fail in turn: node nodes.mjs v3|v4
import { strict as assert } from "node:assert";
import { execSync } from "node:child_process";
import { after, describe, it } from "node:test";
import { sleep, tell, twoRoots } from "./blocks.mjs";
import { startStorage, stopStorage } from "./storage-server.mjs";
import { TestNode } from "./test-node.mjs";

const version = process.argv[2];
const NEGATIVE_TTL_MS = 1000;
const BLOCKS = 32;
/** The outage of the issue lasts a minute; a short one does not fill what can fill. */
const OUTAGE_MS = process.env.KVFERRY_LONG ? 60_000 : 10_000;
/** Many times what it takes. */
const BACK_MS_MAX = 240_000;
const THREADS_MAX = 100;
const FIRST_PORT = version === "v3" ? 9470 : 9480;

const chain = (first) => Array.from({ length: BLOCKS }, (_, i) => `${version} ${first + i}`);

/** Does something while the engines of these nodes go on asking, and says what they saw. */
async function whileAsking(nodes, chains, body) {
  let asking = true;
  const before = nodes.map((node) => node.counts);
  const loops = nodes.map(async (node) => {
    for (let i = 0; asking; i++) await node.request(i % 3 === 2 ? node.freshChain(BLOCKS) : chains[i % chains.length]);
  });
  await body();
  asking = false;
  await Promise.all(loops);
  return nodes.map((node, i) => node.countsSince(before[i]));
}

/** Ms until every node has loaded every chain from storage and memory. */
async function untilAllHit(nodes, chains) {
  const startedMs = performance.now();
  for (const node of nodes) {
    for (const ids of chains) {
      while ((await node.request(ids)).found < ids.length) {
        assert.ok(performance.now() - startedMs < BACK_MS_MAX, `no hits: ${JSON.stringify(node.counts)}`);
        await sleep(20);
      }
    }
  }
  return Math.round(performance.now() - startedMs);
}

function assertRight(seen) {
  for (const { wrong, corrupt } of seen) assert.deepEqual({ wrong, corrupt }, { wrong: 0, corrupt: 0 });
}

describe(`two nodes over NFS ${version}`, async () => {
  const roots = twoRoots(version);
  const options = { negativeTtlMs: NEGATIVE_TTL_MS, memoryBlocks: BLOCKS };
  const nodes = await Promise.all(
    roots.map((root, i) => TestNode.start({ ...options, root, host: `c${i + 1}`, port: FIRST_PORT + i })),
  );
  const [one, two] = nodes;
  const chains = [chain(0), chain(1000), chain(2000)]; // more than fit into memory
  after(async () => {
    startStorage();
    await Promise.all(nodes.map((node) => node.stop()));
  });

  it("a block that one stores is a hit on the other, asked for in vain before, within negativeTtlMs", async () => {
    for (const ids of chains) {
      assert.equal(await two.look(ids), 0);
      assert.equal((await one.request(ids)).stored, BLOCKS);
    }
    await sleep(NEGATIVE_TTL_MS);
    for (const ids of chains) assert.equal(await two.look(ids), BLOCKS);
    for (const ids of chains) assert.equal((await two.request(ids)).found, BLOCKS);
  });

  for (const killed of [0, 1]) {
    it(`node ${killed + 1} is killed in the middle of its work: the other goes on, and it comes back`, async () => {
      const node = nodes[killed];
      const seen = await whileAsking(nodes, chains, async () => {
        await sleep(500);
        node.kill();
        await sleep(1500);
        await node.restart();
        await sleep(500);
      });
      assertRight(seen);
      assert.ok(seen[1 - killed].found > 0 && seen[1 - killed].unreachable === 0);
      const backMs = await untilAllHit(nodes, [...chains, ...nodes[1 - killed].lastFresh()]);
      tell(`${version} node ${killed + 1} killed`, { seen, backMs });
    });
  }

  it("the storage is away: every call ends, lost stores are counted, and hits are back soon after it is", async () => {
    const lostBefore = await Promise.all(nodes.map((node) => node.storesLost()));
    let threads = 0;
    let rssBytes = 0;
    const seen = await whileAsking(nodes, chains, async () => {
      stopStorage();
      for (let leftMs = OUTAGE_MS; leftMs > 0; leftMs -= 500) {
        await sleep(500);
        for (const { facts } of nodes.map((node) => ({ facts: node.facts() }))) {
          threads = Math.max(threads, facts.threads);
          rssBytes = Math.max(rssBytes, facts.rssBytes);
        }
      }
      startStorage();
    });
    const backMs = await untilAllHit(nodes, chains);
    const lost = await Promise.all(nodes.map(async (node, i) => (await node.storesLost()) - lostBefore[i]));
    tell(`${version} an outage of ${OUTAGE_MS} ms`, { seen, lost, threads, rssMiB: rssBytes >> 20, backMs });
    assertRight(seen);
    for (const [i, { requests, unreachable }] of seen.entries()) {
      assert.ok(requests > 1 && lost[i] > 0);
      assert.equal(unreachable, 0);
    }
    assert.ok(threads < THREADS_MAX, `${threads} threads`);
  });

  for (const cut of [0, 1]) {
    it(`node ${cut + 1} is cut off: the other does not notice, and it is back when the cable is`, async () => {
      const cable = (state) => execSync(`ip link set v${nodes[cut].host} ${state}`);
      try {
        const seen = await whileAsking(nodes, chains, async () => {
          cable("down");
          await sleep(OUTAGE_MS / 2);
          cable("up");
        });
        assertRight(seen);
        const other = seen[1 - cut];
        assert.deepEqual({ failed: other.failed, unreachable: other.unreachable }, { failed: 0, unreachable: 0 });
        assert.ok(other.found > 0 && other.stored > 0);
        const backMs = await untilAllHit(nodes, [...chains, ...nodes[1 - cut].lastFresh()]);
        tell(`${version} node ${cut + 1} cut off for ${OUTAGE_MS / 2} ms`, { seen, backMs });
      } finally {
        cable("up");
      }
    });
  }

  it("the network is slow and loses packets: nothing but time is lost", async () => {
    const netem = (verb, how) => {
      for (const { host } of nodes) {
        execSync(`tc qdisc ${verb} dev v${host} root netem ${how}`);
        execSync(`ip netns exec ${host} tc qdisc ${verb} dev eth0 root netem ${how}`);
      }
    };
    netem("add", "delay 10ms loss 1%"); // each way: 20 ms there and back
    try {
      const seen = await whileAsking(nodes, chains, () => sleep(OUTAGE_MS));
      tell(`${version} 20 ms of delay and 1 % of loss`, { seen });
      assertRight(seen);
      for (const { found, unreachable } of seen) assert.ok(found > 0 && unreachable === 0);
    } finally {
      netem("del", "");
    }
    tell(`${version} after that`, { backMs: await untilAllHit(nodes, chains) });
  });
});

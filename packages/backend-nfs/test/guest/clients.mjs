// What two clients of one NFS server do to each other's blocks: node clients.mjs v3|v4
import { strict as assert } from "node:assert";
import { closeSync, openSync, readdirSync, readSync, statSync, unlinkSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { keyHex, LookupState, Outcome, outcomeCode } from "@kvferry/core";
import {
  BLOCK_BYTES,
  batchOf,
  byteOf,
  count,
  FILE_BYTES,
  isRight,
  keysOf,
  namespace,
  openBackend,
  sleep,
  tell,
  twoRoots,
} from "./blocks.mjs";

const version = process.argv[2];

function pathOf(root, number) {
  const hex = keyHex(keysOf(number, 1).bytes);
  return join(root, namespace.digestHex, "blocks", hex.slice(0, 2), `${hex}.kvb`);
}

/** A backend on each client, closed at the end. */
async function withBoth(config, body) {
  const [one, two] = twoRoots(version);
  const c1 = await openBackend(one, config);
  const c2 = await openBackend(two, config);
  try {
    await body({ c1, c2, one, two });
  } finally {
    await Promise.all([c1.close(), c2.close()]);
  }
}

describe(`two clients over NFS ${version}`, () => {
  it("never get a wrong byte, nor an error, for blocks that the other removes and stores while they are read", () =>
    withBoth({ negativeTtlMs: 400 }, async ({ c1, c2 }) => {
      const BLOCKS = 64;
      let reading = true;
      const seen = { loaded: 0, missed: 0, wrong: 0, failed: 0 };
      const readOn = (async () => {
        while (reading) {
          const batch = batchOf(0, BLOCKS);
          batch.region.bytes.fill(0);
          await c2.lookup(batch.keys);
          const { outcomes } = await c2.load(batch);
          for (const [i, outcome] of outcomes.entries()) {
            if (outcome === Outcome.LOADED) {
              seen.loaded++;
              if (!isRight(batch, 0, i)) seen.wrong++;
            } else if (outcome === Outcome.MISS) seen.missed++;
            else seen.failed++;
          }
        }
      })();
      for (let round = 0; round < 20; round++) {
        await c1.store(batchOf(0, BLOCKS));
        await sleep(10);
        await c1.remove(keysOf(0, BLOCKS));
      }
      reading = false;
      await readOn;
      tell(`${version} blocks read while the other node removed and stored them`, seen);
      assert.equal(seen.wrong, 0);
      assert.equal(seen.failed, 0);
      assert.ok(seen.loaded > 0 && seen.missed > 0);
    }));

  it("take a block that the other has removed for a miss, and forget it", () =>
    withBoth({ negativeTtlMs: 400 }, async ({ c1, c2 }) => {
      await c1.store(batchOf(0, 1));
      assert.deepEqual([...(await c2.lookup(keysOf(0, 1)))], [LookupState.HIT]);
      await c1.remove(keysOf(0, 1));
      const batch = batchOf(0, 1);
      // with NFS 4 the server may have let c2's kernel keep the file for a moment: its bytes are right
      for (let outcome; outcome !== Outcome.MISS; ) {
        [outcome] = (await c2.load(batch)).outcomes;
        if (outcome !== Outcome.MISS) assert.equal(outcome, Outcome.LOADED);
      }
      assert.deepEqual([...(await c2.lookup(keysOf(0, 1)))], [LookupState.MISS]);
      await c1.store(batchOf(0, 1)); // perhaps within the tick of the server's clock in which it was removed
      await sleep(400);
      assert.deepEqual([...(await c2.lookup(keysOf(0, 1)))], [LookupState.HIT]);
      assert.deepEqual([...(await c2.load(batch)).outcomes], [Outcome.LOADED]);
    }));

  it("find blocks of the other in vLLM's layout, in folders that were not there when they were asked for", () => {
    const vllmFs = { base: "org_model_0123456789ab", rank: 0, config: "{}" };
    return withBoth({ layout: "vllm-fs", vllmFs, negativeTtlMs: 400 }, async ({ c1, c2 }) => {
      const keys = keysOf(0, 50);
      assert.equal(count(await c2.lookup(keys), LookupState.HIT), 0);
      await c1.store(batchOf(0, 50));
      await sleep(400);
      assert.equal(count(await c2.lookup(keys), LookupState.HIT), 50);
    });
  });

  it("both store one key, and each reads whole blocks", () =>
    withBoth({}, async ({ c1, c2, one }) => {
      for (let round = 0; round < 20; round++) {
        const results = await Promise.all([c1.store(batchOf(8 * round, 8)), c2.store(batchOf(8 * round, 8))]);
        for (const { outcomes } of results) {
          for (const outcome of outcomes)
            assert.ok(outcome === Outcome.STORED || outcome === Outcome.PRESENT, `${outcome}`);
        }
      }
      for (const backend of [c1, c2]) {
        const batch = batchOf(0, 160);
        batch.region.bytes.fill(0);
        assert.equal(count((await backend.load(batch)).outcomes, Outcome.LOADED), 160);
        for (let i = 0; i < 160; i++) assert.ok(isRight(batch, 0, i));
      }
      assert.equal(statSync(pathOf(one, 0)).size, FILE_BYTES);
    }));

  it("leave alone what NFS keeps of a removed file that is open, in scan and usage, and when a folder goes", () =>
    withBoth({}, async ({ c1, one }) => {
      await c1.store(batchOf(0, 2));
      const open = openSync(pathOf(one, 0), "r");
      unlinkSync(pathOf(one, 0));
      const folder = join(pathOf(one, 0), "..");
      assert.ok(readdirSync(folder).some((name) => name.startsWith(".nfs")));
      const { blocks, bytes } = await c1.usage();
      assert.deepEqual({ blocks, bytes }, { blocks: 1, bytes: FILE_BYTES });
      let listed = 0;
      for await (const page of c1.scan()) listed += page.length;
      assert.equal(listed, 1);
      const bytesRead = Buffer.alloc(BLOCK_BYTES);
      readSync(open, bytesRead, 0, BLOCK_BYTES, 0);
      assert.equal(bytesRead[0], byteOf(0));
      closeSync(open);
    }));

  it("open and close although a file of a writer's folder is still open", async () => {
    const [one] = twoRoots(version);
    const backend = await openBackend(one);
    const writers = join(one, namespace.digestHex, "tmp");
    const [writer] = readdirSync(writers);
    const path = join(writers, writer, "left");
    const open = openSync(path, "w");
    await backend.close(); // its folder holds a .nfs file from now on
    const next = await openBackend(one);
    await next.close();
    closeSync(open);
    assert.deepEqual(readdirSync(writers), [writer]); // this process still runs, so that it is not taken for dead
  });

  it("hold one capacity together", async () => {
    const BLOCKS_MAX = 200;
    const capacityBytes = BLOCKS_MAX * FILE_BYTES;
    await withBoth({ capacityBytes, negativeTtlMs: 400 }, async ({ c1, c2, one }) => {
      const done = { stored: 0, dropped: 0, failed: 0 };
      let most = 0;
      const server = join("/run/export", one.split("/").at(-1), namespace.digestHex, "blocks");
      const measure = () => {
        let blocks = 0;
        for (const folder of readdirSync(server)) blocks += readdirSync(join(server, folder)).length;
        most = Math.max(most, blocks);
      };
      // until both have stored more than there is room for: blocks were evicted for them
      const storeOn = async (backend, first) => {
        const deadlineMs = performance.now() + 60_000;
        for (let stored = 0, i = 0; stored < BLOCKS_MAX && performance.now() < deadlineMs; i++) {
          const result = await backend.store(batchOf(first + 10 * i, 10));
          const { outcomes } = result;
          stored += count(outcomes, Outcome.STORED);
          done.dropped += count(outcomes, Outcome.DROPPED);
          done.failed += count(outcomes, Outcome.FAILED);
          if (outcomes.includes(Outcome.FAILED)) done.code = outcomeCode(result, outcomes.indexOf(Outcome.FAILED));
          measure();
          if (outcomes.includes(Outcome.DROPPED)) await sleep(50);
          done.firstMs ??= stored > 0 ? Math.round(performance.now() - startedMs) : undefined;
          done.stored += count(outcomes, Outcome.STORED);
        }
      };
      const startedMs = performance.now();
      await Promise.all([storeOn(c1, 0), storeOn(c2, 10_000)]);
      const leaders = [c1, c2].filter(({ rootStatus }) => rootStatus.leads).length;
      tell(`${version} capacity of ${BLOCKS_MAX} blocks shared by two nodes`, { ...done, most, leaders });
      assert.equal(leaders, 1);
      assert.ok(most <= BLOCKS_MAX, `${most} blocks`);
      assert.equal(done.failed, 0);
      assert.ok(done.stored >= 2 * BLOCKS_MAX);
    });
  });
});

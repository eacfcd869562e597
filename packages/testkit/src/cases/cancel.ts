import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { type CallOptions, Outcome } from "@kvferry/core";
import {
  assertAllFailed,
  assertOutcomes,
  assertRejects,
  type Bench,
  isUntouched,
  numbers,
  SENTINEL,
  sleep,
} from "../bench.js";
import type { CaseKit, ConformanceCase } from "../case.js";

const { FAILED, LOADED, MISS, STORED } = Outcome;
const BLOCK_BYTES = 65_536;
/** How long memory is watched after a call has ended. */
const QUIET_MS = 25;

/** Moments at which to end a call, from at once to perhaps too late. */
const moments: readonly (readonly [string, () => Promise<void> | undefined])[] = [
  ["at once", () => undefined],
  ["after a microtask", () => Promise.resolve()],
  ["in the next turn", () => new Promise((resolve) => setImmediate(resolve))],
  ["after 1 ms", () => sleep(1)],
  ["after 4 ms", () => sleep(4)],
];

async function setup(kit: CaseKit): Promise<{ bench: Bench; ids: number[] }> {
  const { limits } = (await kit.create()).backend.manifest;
  const bench = await kit.setup({
    blockBytes: Math.min(Math.max(BLOCK_BYTES, limits.blockBytesMin), limits.blockBytesMax),
  });
  return { bench, ids: numbers(32) };
}

/** A load that is cut short by `options` must leave its region alone from its end on. */
async function cutLoad(
  bench: Bench,
  ids: readonly number[],
  code: string,
  options: CallOptions,
  why: string,
): Promise<void> {
  const loaded = await bench.load(ids, options);
  assertOutcomes(
    loaded.result,
    ids.map(() => [LOADED, FAILED]),
    why,
  );
  assertCodes(loaded.result, code, why);
  bench.assertLoadedContents(loaded, ids, why);
  loaded.region.bytes.fill(SENTINEL);
  await sleep(QUIET_MS);
  assert.ok(isUntouched(loaded.region), `${why}: a slot was written after the call had ended`);
}

/** A store that is cut short must not read its region from its end on: what it says or later turns out to have stored is whole. */
async function cutStore(
  bench: Bench,
  ids: readonly number[],
  code: string,
  options: CallOptions,
  why: string,
): Promise<void> {
  const batch = bench.filled(ids);
  const result = await bench.storeBatch(batch, options);
  batch.region.bytes.fill(SENTINEL);
  assertOutcomes(
    result,
    ids.map(() => [STORED, FAILED]),
    why,
  );
  assertCodes(result, code, why);
  await sleep(QUIET_MS);
  const loaded = await bench.load(ids);
  assertOutcomes(
    loaded.result,
    [...result.outcomes].map((each) => (each === STORED ? LOADED : [LOADED, MISS])),
    `${why}, load`,
  );
  bench.assertLoadedContents(loaded, ids, `${why}, load`);
}

function assertCodes(
  { outcomes, codes }: { outcomes: Uint8Array; codes: Uint8Array },
  code: string,
  why: string,
): void {
  const failed = {
    outcomes: outcomes.filter((each) => each === FAILED),
    codes: codes.filter((_, i) => outcomes[i] === FAILED),
  };
  assertAllFailed(failed, code, why);
}

async function abortAt(
  moment: () => Promise<void> | undefined,
  call: (options: CallOptions) => Promise<void>,
): Promise<void> {
  const controller = new AbortController();
  const ending = call({ signal: controller.signal });
  ending.catch(() => {}); // awaited below; must not count as unhandled until then
  const pause = moment();
  if (pause !== undefined) await pause;
  controller.abort();
  await ending;
}

/** Signals and deadlines: a call that ends early must be over when it says so. */
export const cancelCases: readonly ConformanceCase[] = [
  {
    name: "a signal that is aborted before the call ends it as ABORTED and nothing happens",
    async run(kit) {
      const bench = await kit.setup();
      await bench.mustStore([1]);
      const signal = AbortSignal.abort();
      assertAllFailed(await bench.store([2, 3], { signal }), "ABORTED", "store");
      const { result, region } = await bench.load([1, 2], { signal });
      assertAllFailed(result, "ABORTED", "load");
      assert.ok(isUntouched(region), "an aborted load must not touch its slots");
      await assertRejects(() => bench.lookup([1], { signal }), "ABORTED", "lookup");
      if (bench.backend.manifest.capabilities.remove) {
        assertAllFailed(await bench.remove([1], { signal }), "ABORTED", "remove");
      }
      await bench.mustLoad([1]);
      await bench.mustMiss([2, 3]);
    },
  },
  {
    name: "a deadline that has passed ends the call as DEADLINE and nothing happens",
    async run(kit) {
      const bench = await kit.setup();
      await bench.mustStore([1]);
      assertAllFailed(await bench.store([2], { deadlineMs: 0 }), "DEADLINE", "store");
      assertAllFailed((await bench.load([1], { deadlineMs: 0 })).result, "DEADLINE", "load");
      await assertRejects(() => bench.lookup([1], { deadlineMs: 0 }), "DEADLINE", "lookup");
      const signal = AbortSignal.timeout(1);
      await sleep(10);
      assertAllFailed(
        (await bench.load([1], { signal })).result,
        "DEADLINE",
        "load with a signal of its own that timed out",
      );
      await bench.mustMiss([2]);
    },
  },
  {
    name: "no slot is touched after an aborted load has ended",
    async run(kit) {
      const { bench, ids } = await setup(kit);
      await bench.mustStore(ids);
      for (const [when, moment] of moments) {
        await abortAt(moment, (options) => cutLoad(bench, ids, "ABORTED", options, `load aborted ${when}`));
      }
      await bench.mustLoad(ids);
    },
  },
  {
    name: "no slot is read after an aborted store has ended",
    async run(kit) {
      const { bench, ids } = await setup(kit);
      for (const [n, [when, moment]] of moments.entries()) {
        const fresh = ids.map((id) => id + 1000 * n);
        await abortAt(moment, (options) => cutStore(bench, fresh, "ABORTED", options, `store aborted ${when}`));
        await bench.store(fresh);
        await bench.mustLoad(fresh);
      }
    },
  },
  {
    name: "a deadline in the middle of a transfer ends it in the same way",
    async run(kit) {
      const { bench, ids } = await setup(kit);
      for (const deadlineMs of [1, 3, 8]) {
        const fresh = ids.map((id) => id + 1000 * deadlineMs);
        await cutStore(bench, fresh, "DEADLINE", { deadlineMs }, `store with ${deadlineMs} ms`);
        await bench.store(fresh);
        await cutLoad(bench, fresh, "DEADLINE", { deadlineMs }, `load with ${deadlineMs} ms`);
      }
    },
  },
  {
    name: "an abandonable load leaves its slots alone from the moment of the abort",
    needs: "abandonable",
    async run(kit) {
      const { bench, ids } = await setup(kit);
      await bench.mustStore(ids);
      for (const [when, moment] of moments) {
        const controller = new AbortController();
        const batch = bench.batch(ids, bench.region(ids.length));
        const ending = bench.loadBatch(batch, { signal: controller.signal });
        const pause = moment();
        if (pause !== undefined) await pause;
        controller.abort();
        const before = Buffer.from(batch.region.bytes.slice());
        await ending;
        await sleep(QUIET_MS);
        assert.ok(before.equals(batch.region.bytes), `a slot was written after the abort ${when}`);
      }
    },
  },
  {
    name: "an abandonable store does not read its slots from the moment of the abort",
    needs: "abandonable",
    async run(kit) {
      const { bench, ids } = await setup(kit);
      for (const [n, [when, moment]] of moments.entries()) {
        const fresh = ids.map((id) => id + 1000 * n);
        const controller = new AbortController();
        const batch = bench.filled(fresh);
        const ending = bench.storeBatch(batch, { signal: controller.signal });
        const pause = moment();
        if (pause !== undefined) await pause;
        controller.abort();
        batch.region.bytes.fill(SENTINEL);
        await ending;
        await sleep(QUIET_MS);
        bench.assertLoadedContents(await bench.load(fresh), fresh, `store aborted ${when}`);
      }
    },
  },
  {
    name: "aborting one call leaves the others alone",
    async run(kit) {
      const { bench, ids } = await setup(kit);
      await bench.mustStore(ids);
      const controller = new AbortController();
      const calls = [
        bench.load(ids, { signal: controller.signal }),
        bench.mustLoad(ids),
        bench.mustStore(numbers(16, 5000)),
        bench.load(ids, { signal: controller.signal }),
      ];
      controller.abort();
      await Promise.all(calls);
    },
  },
  {
    name: "a signal keeps no trace of calls that have ended",
    async run(kit) {
      const bench = await kit.setup();
      const { signal } = new AbortController();
      for (const options of [{ signal }, { signal, deadlineMs: 5000 }]) {
        await bench.store([1], options);
        await bench.load([1, 2], options);
        await bench.lookup([1], options);
      }
      assert.equal(getEventListeners(signal, "abort").length, 0, "listeners are left on the caller's signal");
    },
  },
];

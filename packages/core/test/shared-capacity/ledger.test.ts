import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { calm, run } from "./scenario.js";
import type { World } from "./simulation.js";

const LONG = process.env.KVFERRY_LONG === "1";

describe("the capacity of servers that pause, crash and find damaged files", () => {
  it.each(["files", "objects"] as const)(
    "in %s is never exceeded by a single file, nor is a quota; stores go on afterwards, and in the end the leader has counted what is there",
    {
      timeout: LONG ? 3_600_000 : 120_000,
    },
    async (kind) => {
      await fc.assert(
        fc.asyncProperty(fc.nat(), async (seed) => {
          const world = await run(seed, kind);
          const before = world.processes.reduce((sum, { storedBlocks }) => sum + storedBlocks, 0);
          const stored = (): number => world.processes.reduce((sum, { storedBlocks }) => sum + storedBlocks, 0);
          world.pass(6000); // a lease of a crashed process on another host is over
          const mayBeUnknown = world.processes.some(({ crashed, local }) => crashed && !local);
          let goesOn = false;
          // a leader that has lost its lease to the model's time begins to wait anew
          for (let i = 0; i < 3 && !goesOn; i++) {
            if (mayBeUnknown) await silence(world);
            goesOn = await calm(world, 20_000, () => stored() > before + 5);
          }
          expect(goesOn, "stores go on").toBe(true);
          world.storing = false;
          const nothingUnderWay = (): boolean =>
            world.processes.every(({ writing, crashed }) => crashed || writing === 0);
          expect(await calm(world, 20_000, nothingUnderWay)).toBe(true);
          const counted = (): boolean => {
            const leader = world.processes.find((process) => !process.crashed && process.leader !== undefined)?.leader;
            const count = leader?.count;
            if (count === undefined || !count.ready || count.unaccounted.bytes > 0) return false;
            return count.counted.files + count.besides.files === world.fileCount();
          };
          let isCounted = false;
          for (let i = 0; i < 3 && !isCounted; i++) {
            world.pass(11 * 60 * 1000); // time for a recount; one that was under way seems to have taken as long
            isCounted = await calm(world, 20_000, counted);
          }
          expect(isCounted, "counted").toBe(true);
        }),
        { numRuns: LONG ? 1000 : 25 },
      );
    },
  );
});

/** So much time passes, with nothing stored, that a crashed process on another host counts as ended: what it held may have been unknown until then. */
async function silence(world: World): Promise<void> {
  world.storing = false;
  for (let passedMs = 0; passedMs < 7 * 60 * 1000; passedMs += 500) {
    await calm(world, 60, () => false);
    world.pass(500);
  }
  world.storing = true;
}

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, it, onTestFinished, vi } from "vitest";
import { watchTargets } from "../src/index.js";
import { makeStandIn, missing } from "./stand-in.js";

const logger = () => ({ debug: vi.fn(), info: vi.fn(), warn: vi.fn(), error: vi.fn() });

/** As this process sees them; its files are not those of the stand-in. */
async function commandsOf(options: { tools: boolean }) {
  const standIn = await makeStandIn({ kind: "lustre", ...options });
  const { PATH, LFS_STAND_IN, LFS_STAND_IN_MOUNT } = standIn.env;
  for (const [name, value] of Object.entries({ PATH, LFS_STAND_IN, LFS_STAND_IN_MOUNT })) vi.stubEnv(name, value);
  onTestFinished(async () => {
    vi.unstubAllEnvs();
    await standIn.remove();
  });
  return standIn;
}

it.skipIf(missing !== undefined)(
  "how full OSTs are follows what lfs says, and stays while lfs says nothing",
  async () => {
    const standIn = await commandsOf({ tools: true });
    const log = logger();
    const watch = await watchTargets({ folder: standIn.mount, logger: log, periodMs: 20 });
    onTestFinished(() => watch.close());
    expect(watch.gauges).toEqual({ lustre_fullest_ost_ratio: 0.4, lustre_osts_away: 0 });
    await standIn.setOsts([95, 40]);
    await vi.waitUntil(() => watch.gauges?.lustre_fullest_ost_ratio === 0.95, 20_000);
    await writeFile(join(standIn.lfs, "mode"), "broken");
    const calls = (await standIn.lfsCalls()).length;
    await vi.waitUntil(async () => (await standIn.lfsCalls()).length > calls + 2, 20_000);
    expect(watch.gauges?.lustre_fullest_ost_ratio).toBe(0.95);
    expect(log.warn).toHaveBeenCalledTimes(1); // not with every look
  },
);

it.skipIf(missing !== undefined)("there are no numbers where there is no lfs", async () => {
  const standIn = await commandsOf({ tools: false });
  const watch = await watchTargets({ folder: standIn.mount, logger: logger() });
  expect(watch.gauges).toBeUndefined();
});

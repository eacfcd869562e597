import { afterEach, describe, expect, it } from "vitest";
import { type ChildReport, findingOf } from "./child-report.js";
import { makeStandIn, missing, type StandIn, type StandInOptions } from "./stand-in.js";

const TIMEOUT_MS = 60_000;
const env = { GPFS_BLOCK: "4194304", GPFS_SUBBLOCK: "8192", GPFS_FILESET: "kv" };
let standIn: StandIn;

async function gpfs(options: Partial<StandInOptions> = {}): Promise<void> {
  standIn = await makeStandIn({ kind: "gpfs", env, ...options });
}

function open(config: Record<string, unknown> = {}, more: Record<string, unknown> = {}): Promise<ChildReport> {
  return standIn.run("child-backend.mjs", { config: { root: standIn.root, ...config }, ...more });
}

afterEach(() => standIn?.remove());

describe.skipIf(missing !== undefined)(`a stand-in for Storage Scale${missing ? `: ${missing}` : ""}`, () => {
  it("is recognised, and its commands tell block size and fileset", { timeout: TIMEOUT_MS }, async () => {
    await gpfs();
    const report = await open({}, { blocks: 2, blockBytes: 1 << 20 });
    expect(report).toMatchObject({ fileSystem: "gpfs", loaded: ["LOADED", "LOADED"], wrong: [] });
    expect(findingOf(report, "block size")).toMatchObject({
      severity: "fine",
      found: expect.stringContaining("4194304 bytes in subblocks of 8192"),
    });
    expect(findingOf(report, "fileset")).toMatchObject({ severity: "fine", found: "kv, pool system" });
    expect(await standIn.lfsCalls()).toEqual([]);
  });

  it("works without its commands, by what statfs tells", { timeout: TIMEOUT_MS }, async () => {
    await gpfs({ tools: false });
    const report = await open({}, { blocks: 1 });
    expect(report.loaded).toEqual(["LOADED"]);
    expect(findingOf(report, "block size")?.found).toContain("by statfs");
    expect(findingOf(report, "fileset")?.severity).toBe("advice");
  });

  it("says that blocks in the root fileset have no quota of their own", { timeout: TIMEOUT_MS }, async () => {
    await gpfs({ env: { ...env, GPFS_FILESET: "root" } });
    expect(findingOf(await open(), "fileset")).toMatchObject({
      severity: "advice",
      change: expect.stringContaining("mmcrfileset"),
    });
  });

  it("ends stores beyond the fileset's quota as NO_SPACE", { timeout: TIMEOUT_MS }, async () => {
    await gpfs();
    await standIn.setFault("quota");
    const { stored, loaded } = await open({ direct: "off", publish: "rename" }, { blocks: 2 });
    expect(stored).toEqual(["FAILED NO_SPACE", "FAILED NO_SPACE"]);
    expect(loaded).toEqual(["MISS", "MISS"]);
  });

  it("refuses the settings of Lustre", { timeout: TIMEOUT_MS }, async () => {
    await gpfs();
    expect((await open({ pool: "flash" })).error).toMatchObject({ code: "CONFIG_INVALID", context: { field: "pool" } });
  });
});

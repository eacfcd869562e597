import { execFileSync } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { type ChildReport, findingOf } from "./child-report.js";
import { makeStandIn, missing, type StandIn, type StandInOptions } from "./stand-in.js";

const MIB = 1 << 20;
const TIMEOUT_MS = 60_000;
let standIn: StandIn;

async function lustre(options: Partial<StandInOptions> = {}): Promise<void> {
  standIn = await makeStandIn({ kind: "lustre", ...options });
}

function open(config: Record<string, unknown> = {}, more: Record<string, unknown> = {}): Promise<ChildReport> {
  return standIn.run("child-backend.mjs", { config: { root: standIn.root, ...config }, ...more });
}

/** What new files of a folder get, by the stand-in. */
function layoutOf(folder: string): string {
  const lfs = join(standIn.lfs, "..", "bin", "lfs");
  return execFileSync(lfs, ["getstripe", "-d", "--raw", folder], {
    env: { ...standIn.env, LD_PRELOAD: "" },
    encoding: "utf8",
  });
}

async function setstripes(): Promise<string[]> {
  return (await standIn.lfsCalls()).filter((call) => call.startsWith("setstripe"));
}

afterEach(() => standIn?.remove());

describe.skipIf(missing !== undefined)(`a stand-in for Lustre${missing ? `: ${missing}` : ""}`, () => {
  it("gives a new namespace's folder its layout before anything is made in it, so that all of it has that layout", {
    timeout: TIMEOUT_MS,
  }, async () => {
    await lustre();
    const report = await open({}, { blocks: 2 });
    expect(report).toMatchObject({ fileSystem: "lustre", stored: ["STORED", "STORED"], loaded: ["LOADED", "LOADED"] });
    const folder = join(standIn.root, report.digest);
    expect(await setstripes()).toEqual([`setstripe -c 1 -S 131072 ${folder}`]); // 64 KiB and the footer
    for (const each of ["blocks/00", "blocks/ff", "tmp"]) expect(layoutOf(join(folder, each))).toContain("131072");
    expect(findingOf(report, "layout")?.severity).toBe("fine");
    expect(await standIn.log()).toContain("no O_TMPFILE");
    expect(report.probe?.publish).toBe("rename");
    await open();
    expect(await setstripes()).toHaveLength(1); // there is nothing to do the second time
  });

  it("passes on pool, counts and Data-on-MDT as they are configured", { timeout: TIMEOUT_MS }, async () => {
    await lustre();
    const mdt = await open({ pool: "flash", dataOnMdt: true });
    expect((await setstripes())[0]).toMatch(/^setstripe -E 131072 -L mdt -E -1 -c 1 -S 131072 -p flash \//);
    expect(findingOf(mdt, "layout")?.severity).toBe("fine"); // it reads what it has written
    await open({ stripeCount: -1, stripeBytes: MIB }, { model: "other" });
    expect((await setstripes())[1]).toMatch(/^setstripe -c -1 -S 1048576 \//);
  });

  it("leaves a layout that somebody has chosen, unless it is told to replace it", { timeout: TIMEOUT_MS }, async () => {
    await lustre();
    await mkdir(standIn.root);
    const chosen = (await makeLayout(["-c", "4", "-S", "4194304", "-p", "flash"])).trim();
    const kept = await open();
    const folder = join(standIn.root, kept.digest);
    expect(layoutOf(folder).trim()).toBe(chosen); // inherited from the root
    expect(findingOf(kept, "layout")).toMatchObject({
      severity: "advice",
      found: expect.stringContaining("4 stripes"),
    });
    await open({ striping: "replace" });
    for (const each of [folder, join(folder, "tmp")])
      expect(layoutOf(each)).toMatch(/stripe_count: {2}1 stripe_size: {3}131072 .*pool: +flash/);
    const calls = (await setstripes()).length;
    expect(findingOf(await open({ striping: "replace" }), "layout")?.severity).toBe("fine");
    expect(await setstripes()).toHaveLength(calls);
  });

  it("refuses a pool that is not there, by the name of the setting", { timeout: TIMEOUT_MS }, async () => {
    await lustre();
    const { error } = await open({ pool: "typo" });
    expect(error).toMatchObject({ code: "CONFIG_INVALID", context: { field: "pool" } });
    expect(error?.message).toContain("typo");
  });

  it.each([
    ["denied", "Permission denied"],
    ["broken", "Inappropriate ioctl"],
  ])("stores and loads without a layout when lfs is %s, and says so", { timeout: TIMEOUT_MS }, async (mode, words) => {
    await lustre();
    await writeFile(join(standIn.lfs, "mode"), mode);
    const report = await open({}, { blocks: 1 });
    expect(report.loaded).toEqual(["LOADED"]);
    expect(findingOf(report, "lfs")).toMatchObject({ severity: "advice", found: expect.stringContaining(words) });
    expect(report.lines).toContainEqual(
      expect.objectContaining({ level: "warn", trouble: expect.stringContaining(words) }),
    );
  });

  it("opens when lfs hangs, as it does while servers are away", { timeout: TIMEOUT_MS }, async () => {
    await lustre();
    await writeFile(join(standIn.lfs, "mode"), "hang");
    const report = await open({}, { blocks: 1 });
    expect(report.loaded).toEqual(["LOADED"]);
    expect(findingOf(report, "lfs")?.found).toBe("does not answer");
    expect(await standIn.lfsCalls()).toHaveLength(1); // whoever hangs is not asked again
  });

  it("works without lfs, and says so once", { timeout: TIMEOUT_MS }, async () => {
    await lustre({ tools: false });
    const report = await open({ pool: "flash" }, { blocks: 1 });
    expect(report.loaded).toEqual(["LOADED"]);
    expect(findingOf(report, "lfs")?.severity).toBe("advice");
    expect(report.lines.filter(({ text }) => text.includes("no `lfs`"))).toHaveLength(1);
  });

  it("goes on with other blocks when one OST is full", { timeout: TIMEOUT_MS }, async () => {
    await lustre();
    await standIn.setOsts([99, 40]);
    await standIn.setFault("full 0 2");
    const { stored, loaded, findings } = await open({}, { blocks: 32 });
    expect(new Set(stored)).toEqual(new Set(["STORED", "FAILED NO_SPACE"]));
    expect(loaded).toEqual(stored.map((outcome) => (outcome === "STORED" ? "LOADED" : "MISS")));
    expect(findings).toContainEqual(
      expect.objectContaining({ severity: "advice", subject: "fullest OST", found: "testfs-OST0000 is 99 % full" }),
    );
  });

  it("loses no byte to transfers that end after 512 KiB", { timeout: TIMEOUT_MS }, async () => {
    await lustre();
    const report = await open({}, { blocks: 4, blockBytes: 3 * MIB });
    expect(report).toMatchObject({ stored: Array(4).fill("STORED"), loaded: Array(4).fill("LOADED"), wrong: [] });
    const log = await standIn.log();
    for (const what of ["short write", "short read"]) expect(log).toContain(what);
  });

  it("is refused on any other file system, with the way out", { timeout: TIMEOUT_MS }, async () => {
    await lustre({ kind: "other" });
    const { error } = await open();
    expect(error).toMatchObject({ code: "UNSUPPORTED", context: { field: "root", fileSystem: "ext4" } });
    expect(error?.message).toContain("use the backend posix");
  });
});

/** An administrator's choice for the root. */
async function makeLayout(layout: readonly string[]): Promise<string> {
  const lfs = join(standIn.lfs, "..", "bin", "lfs");
  execFileSync(lfs, ["setstripe", ...layout, standIn.root], { env: { ...standIn.env, LD_PRELOAD: "" } });
  return layoutOf(standIn.root);
}

// An operator asks what a folder or a bucket can do before trusting it with blocks: the verdict has to be right, and asking must harm nothing.
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Finding, FolderFacts } from "@kvferry/core";
import { fileSystemOf } from "@kvferry/core";
import { afterEach, describe, expect, it, onTestFinished } from "vitest";
import { makeStandIn, missing } from "../../../packages/backend-parallel-fs/test/stand-in.js";
import { s3ServerBinary, startS3Server } from "../../../scripts/lib/s3-servers.mjs";
import { checkConfigText } from "../src/config-file.js";
import { judgeFolder } from "../src/doctor/judge-folder.js";
import { judgeS3 } from "../src/doctor/judge-s3.js";
import { configText, verdictOf } from "../src/doctor/report.js";
import { suggestTier } from "../src/doctor/suggest-tier.js";
import { run, start } from "./child-server.js";
import { scratch } from "./helpers.js";

const TIMEOUT_MS = 120_000;
const GIB = 2 ** 30;
const EOPNOTSUPP = 95;

const good: FolderFacts = {
  path: "/mnt/kv",
  fileSystem: fileSystemOf(0xef53),
  mount: { device: "8:1", point: "/mnt/kv", type: "ext4", source: "/dev/sda1", options: ["rw", "noatime"] },
  space: { bytes: 1000 * GIB, bytesFree: 900 * GIB, files: 1e8, filesFree: 1e8, blockBytes: 4096 },
  features: {
    errno: {
      ...{ exclusiveCreate: 0, renameOver: 0, hardLink: 0, unnamedFile: 0 },
      ...{ userXattr: 0, fallocate: 0, punchHole: 0, direct: 0 },
    },
    ...{ directAlignmentBytes: 512, directTransferBytes: 4 << 20, transferBytes: 4 << 20, transferAskedBytes: 4 << 20 },
    timestampStepNs: 1000,
  },
  files: { createUs: 20, spreadUs: 40, lookupUs: 5 },
  visibility: { observer: "a process of this host", createMs: 1, rewriteMs: 1, unlinkMs: 1 },
  measured: {
    uncached: true,
    speeds: [
      { blockBytes: 65536, depth: 1, storeBytesPerSecond: 1e8, loadBytesPerSecond: 1e8, loadMs: { half: 1, most: 2 } },
      { blockBytes: 1 << 20, depth: 8, storeBytesPerSecond: 2e9, loadBytesPerSecond: 2e9 },
    ],
  },
};

function badOf(facts: FolderFacts): Record<string, string> {
  const findings = judgeFolder(facts, []).filter(({ severity }) => severity !== "fine");
  return Object.fromEntries(findings.map(({ subject, severity }) => [subject, severity]));
}

function withErrno(errno: Partial<FolderFacts["features"]["errno"]>): FolderFacts {
  return { ...good, features: { ...good.features, errno: { ...good.features.errno, ...errno } } };
}

describe("what the doctor says of a folder's facts", () => {
  it("finds nothing to change where all is well", () => {
    expect(badOf(good)).toEqual({});
    expect(suggestTier(good)).toEqual({ backend: "nvme", path: "/mnt/kv", capacity: "720GiB" });
  });

  it("refuses what would lose blocks or break the bound", () => {
    expect(badOf(withErrno({ exclusiveCreate: 5 }))).toEqual({ "exclusive create": "problem" });
    expect(badOf(withErrno({ renameOver: EOPNOTSUPP }))).toEqual({ "rename onto a name": "problem" });
    expect(badOf({ ...good, fileSystem: fileSystemOf(0x794c7630) })).toMatchObject({ "file system": "problem" });
  });

  it("advises where it works and could be better", () => {
    expect(badOf(withErrno({ direct: 22 }))).toEqual({ O_DIRECT: "advice" });
    expect(badOf(withErrno({ fallocate: EOPNOTSUPP }))).toEqual({ fallocate: "advice" });
    expect(badOf({ ...good, space: { ...good.space, bytesFree: GIB } })).toEqual({ space: "advice" });
    expect(badOf({ ...good, space: { ...good.space, filesFree: 1000 } })).toEqual({ files: "advice" });
    expect(badOf({ ...good, space: { ...good.space, files: 0, filesFree: 0 } })).toEqual({});
    expect(badOf({ ...good, visibility: { ...good.visibility, createMs: undefined } })).toEqual({
      "a second process": "advice",
    });
    const { mount } = good;
    if (mount === undefined) throw new Error("the facts have a mount");
    expect(badOf({ ...good, mount: { ...mount, options: ["rw", "sync"] } })).toEqual({
      "mount option sync": "advice",
      "mount option noatime": "advice",
    });
    const nfs = { ...good, fileSystem: fileSystemOf(0x6969) };
    expect(badOf(nfs)).toEqual({ "block size": "advice" });
  });

  it("leaves to a file system's own backend what that says, and suggests one that gives up what hangs", () => {
    const noMount = { ...good, mount: { ...good.mount, options: ["rw"] } } as FolderFacts;
    const own: Finding[] = [{ severity: "problem", subject: "mount option noatime", found: "its own", means: "" }];
    expect(judgeFolder(noMount, own).filter(({ subject }) => subject === "mount option noatime")).toEqual(own);
    expect(suggestTier({ ...good, fileSystem: fileSystemOf(0x65735546) })).toMatchObject({ abandonable: true });
    expect(suggestTier({ ...good, fileSystem: fileSystemOf(0x6969) })).not.toHaveProperty("abandonable");
  });

  it("suggests tiers that the configuration takes, whatever the file system", () => {
    for (const magic of [0xef53, 0x01021994, 0x6969, 0x0bd00bd0, 0x47504653, 0x65735546, 0x794c7630, 0x12345]) {
      for (const facts of [good, withErrno({ direct: 22 })]) {
        const tier = suggestTier({ ...facts, fileSystem: fileSystemOf(magic) });
        expect(checkConfigText(configText([tier])).problems, `${magic.toString(16)}`).toEqual([]);
        expect(tier.backend === "nfs").toBe(magic === 0x6969);
      }
    }
  });
});

describe("what the doctor says of a bucket's facts", () => {
  const bucket = {
    ...{ bucket: "b", prefix: "", endpoint: undefined, conditionalCreate: true, verifiesChecksum: true },
    ...{ ranges: true, listsAtOnce: true, multipart: "yes" as const, headMs: 1, speeds: [] },
  };
  const verdict = (facts: object) =>
    verdictOf({ target: "", facts, findings: judgeS3({ ...bucket, ...facts }), tier: undefined });

  it("is that of its worst fact", () => {
    expect(verdict({})).toBe("fine");
    expect(verdict({ conditionalCreate: false })).toBe("advice");
    expect(verdict({ verifiesChecksum: false })).toBe("advice");
    expect(verdict({ ranges: false })).toBe("problem");
    expect(verdict({ listsAtOnce: false })).toBe("problem");
    expect(verdict({ multipart: "no" })).toBe("problem");
  });
});

describe("kvferry doctor", { timeout: TIMEOUT_MS }, () => {
  it("probes a folder, leaves nothing there, and writes a configuration that the server takes", async () => {
    const folder = scratch();
    const [config, report] = [join(folder, "kvferry.yaml"), join(folder, "report.json")];
    const root = join(folder, "kv");
    mkdirSync(root);
    const { code, stdout } = await run(["doctor", root, "--write", config, "--report", report]);
    expect({ code, stdout }).toMatchObject({ code: 0, stdout: expect.stringContaining("Verdict: ") });
    expect(readdirSync(root)).toEqual([]);
    expect(checkConfigText(readFileSync(config, "utf8")).problems).toEqual([]);
    const { facts } = JSON.parse(readFileSync(report, "utf8")).diagnoses[0];
    expect(facts.features.errno).toMatchObject({ exclusiveCreate: 0, renameOver: 0 });
    expect(facts.visibility).toMatchObject({ observer: "a process of this host", createMs: expect.any(Number) });
    expect(facts.measured.speeds.length).toBeGreaterThan(0);
    for (const speed of facts.measured.speeds) expect(speed.loadBytesPerSecond).toBeGreaterThan(0);
  });

  it.skipIf(missing !== undefined).each(["lustre", "gpfs"] as const)(
    `knows a stand-in for %s, and leaves its folders as they are${missing ? `: ${missing}` : ""}`,
    async (kind) => {
      const standIn = await makeStandIn({ kind });
      onTestFinished(standIn.remove);
      mkdirSync(standIn.root, { recursive: true });
      if (kind === "lustre") await standIn.setOsts([40, 95]);
      const { stdout } = await run(["doctor", standIn.root, "--quick", "--json"], standIn.env);
      const [{ findings, tier }] = JSON.parse(stdout).diagnoses;
      const subjects = findings.map(({ subject }: { subject: string }) => subject);
      expect(subjects).toEqual(
        expect.arrayContaining(kind === "lustre" ? ["layout", "fullest OST", "file locks"] : ["block size", "fileset"]),
      );
      expect(tier).toMatchObject({ backend: "parallel-fs", root: standIn.root, abandonable: true });
      if (kind === "lustre") expect((await standIn.lfsCalls()).join()).not.toContain("setstripe");
    },
  );

  it("takes a second client's command, and says when that does not answer", async () => {
    const root = scratch();
    const own = `${process.execPath} ${join(import.meta.dirname, "../bin/kvferry.js")} doctor --observe ${root}`;
    const seen = await run(["doctor", root, "--quick", "--json", "--observer", `echo welcome; ${own}`]);
    expect(JSON.parse(seen.stdout).diagnoses[0].facts.visibility).toMatchObject({
      observer: `echo welcome; ${own}`,
      createMs: expect.any(Number),
      rewriteMs: expect.any(Number),
      unlinkMs: expect.any(Number),
    });
    const silent = await run(["doctor", root, "--quick", "--json", "--observer", "true"]);
    expect(silent.code).toBe(1);
    const [{ findings, tier }] = JSON.parse(silent.stdout).diagnoses;
    expect(findings).toContainEqual(
      expect.objectContaining({ severity: "problem", found: expect.stringContaining("the observer has ended") }),
    );
    expect(tier).toBeDefined();
    expect(readdirSync(root)).toEqual([]);
  });

  it("says of what it does not look at what to do instead", async () => {
    const { code, stdout } = await run(["doctor", "sftp:kv@host/srv/kv", "nfs:/mnt/kv", "--quick", "--json"]);
    const found = JSON.parse(stdout).diagnoses.map(
      ({ findings }: { findings: { found: string }[] }) => findings[0]?.found,
    );
    expect({ code, found }).toEqual({
      code: 1,
      found: [expect.stringContaining("kvferry copy FOLDER sftp:"), expect.stringContaining("by their paths")],
    });
  });

  it("says that a folder is not there, and goes on with the next", async () => {
    const root = scratch();
    const { code, stdout } = await run(["doctor", join(root, "none"), root, "--quick", "--json"]);
    const { diagnoses } = JSON.parse(stdout);
    expect(code).toBe(1);
    expect(diagnoses[0]).toMatchObject({ findings: [{ severity: "problem", subject: "it cannot be used" }] });
    expect(diagnoses[1].facts.path).toBe(root);
  });

  it("refuses to write over a file before it begins, and names the flag", async () => {
    const root = scratch();
    const taken = mkdtempSync(join(root, "taken-"));
    const { code, stderr } = await run(["doctor", root, "--report", taken]);
    expect({ code, stderr }).toMatchObject({ code: 2, stderr: expect.stringContaining("--report") });
    expect((await run(["doctor", root, "--timeout", "soon"])).stderr).toContain("--timeout");
  });

  it("takes its files away at Ctrl-C", async () => {
    const root = scratch();
    const { child, finished } = await start(["doctor", root, "--json"]);
    await expect.poll(() => readdirSync(root).length, { timeout: TIMEOUT_MS / 2, interval: 5 }).toBeGreaterThan(0);
    child.kill("SIGINT");
    expect((await finished).code).toBe(130);
    await expect.poll(() => readdirSync(root), { timeout: TIMEOUT_MS / 2 }).toEqual([]);
  });

  it("takes its files away when nobody listens to the probe any more", async () => {
    const root = scratch();
    const bin = join(import.meta.dirname, "../bin/kvferry.js");
    const probe = spawn(process.execPath, [bin, "doctor", "--probe", root], { stdio: ["ignore", "pipe", "ignore"] });
    const exited = once(probe, "exit");
    await once(probe.stdout, "data");
    probe.stdout.destroy();
    expect((await exited)[0]).toBe(1);
    expect(readdirSync(root)).toEqual([]);
  });
});

const mounted: string[] = [];
const mountTmpfs = (options: string): string | undefined => {
  const point = join(scratch(), "small");
  mkdirSync(point);
  if (spawnSync("mount", ["-t", "tmpfs", "-o", options, "tmpfs", point]).status !== 0) return undefined;
  mounted.push(point);
  return point;
};
afterEach(() => {
  for (const point of mounted.splice(0)) spawnSync("umount", ["-l", point]);
});

describe("kvferry doctor where there is little room", { timeout: TIMEOUT_MS }, () => {
  it("measures less rather than filling the file system", async ({ skip }) => {
    const point = mountTmpfs("size=8m");
    if (point === undefined) return skip("tmpfs cannot be mounted here");
    const { stdout } = await run(["doctor", point, "--json"]);
    const [{ facts, findings }] = JSON.parse(stdout).diagnoses;
    expect(facts.fileSystem).toMatchObject({ name: "tmpfs", kind: "memory" });
    expect(findings).toContainEqual(expect.objectContaining({ severity: "advice", subject: "space" }));
    expect(readdirSync(point)).toEqual([]);
  });
});

describe("kvferry doctor on S3", { timeout: TIMEOUT_MS }, () => {
  it("finds what a real server does, and what is wrong with a bucket", async ({ skip }) => {
    if (s3ServerBinary("versitygw") === undefined) return skip("not built: node scripts/setup-system.mjs");
    const server = await startS3Server("versitygw");
    try {
      mkdirSync(join(server.data, "objects", "kv-test")); // its buckets are folders
      const env = {
        AWS_ACCESS_KEY_ID: server.credentials.accessKeyId,
        AWS_SECRET_ACCESS_KEY: server.credentials.secretAccessKey,
      };
      const s3 = ["--endpoint", server.endpoint, "--region", server.region, "--json"];
      const { stdout } = await run(["doctor", "s3://kv-test/cache", "s3://missing", ...s3], env);
      const [found, missing] = JSON.parse(stdout).diagnoses;
      expect(found.facts).toMatchObject({
        conditionalCreate: true,
        verifiesChecksum: true,
        ranges: true,
        listsAtOnce: true,
      });
      expect(found.tier).toMatchObject({ backend: "s3", bucket: "kv-test", prefix: "cache" });
      expect(stdout).not.toContain(server.credentials.secretAccessKey);
      expect(missing.findings[0]).toMatchObject({ severity: "problem", found: expect.stringContaining("bucket") });
      const cache = join(server.data, "objects", "kv-test", "cache");
      expect(existsSync(cache) ? readdirSync(cache) : []).toEqual([]);
    } finally {
      await server.stop();
    }
  });
});

describe("kvferry bench", { timeout: TIMEOUT_MS }, () => {
  it("measures a folder through a server of its own, draws it, and leaves nothing there", async () => {
    const [root, plot] = [scratch(), join(scratch(), "plot.svg")];
    for (const backend of ["posix", "nvme"]) {
      const args = ["--backend", backend, "--blocks", "64KiB,1MiB", "--bytes", "8MiB", "--json", "--plot", plot];
      const { code, stdout, stderr } = await run(["bench", root, ...args]);
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      const { rows } = JSON.parse(stdout);
      expect(rows.map(({ blockBytes }: { blockBytes: number }) => blockBytes)).toEqual([65_536, 1_048_576]);
      for (const row of rows) for (const value of Object.values(row)) expect(value).toBeGreaterThan(0);
      expect(readFileSync(plot, "utf8")).toContain("<svg");
      expect(readdirSync(root)).toEqual([]);
    }
  });

  it("names what is wrong with its arguments", async () => {
    expect(await run(["bench", "/nowhere"])).toMatchObject({ code: 1, stderr: expect.stringContaining("/nowhere") });
    expect(await run(["bench", scratch(), "--blocks", "64KiB,many"])).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("--blocks"),
    });
  });
});

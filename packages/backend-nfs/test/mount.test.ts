import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createNamespace, type Mount, parseMounts, worstSeverity } from "@kvferry/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  judgeMount,
  mountCounters,
  NfsBackend,
  type NfsMount,
  type NfsMountStats,
  nfsMountOf,
  parseMountStats,
  readNfsMount,
} from "../src/index.js";

const sample = (name: string): string => readFileSync(new URL(`samples/${name}.txt`, import.meta.url), "utf8");

/** Of the guest of the suite nfs. */
const guestMounts = parseMounts(sample("guest-mountinfo"));
const guestStats = parseMountStats(sample("guest-mountstats"));
const [busy] = parseMountStats(sample("busy-mountstats")) as [NfsMountStats];

function guestMount(point: string): NfsMount {
  const mount = guestMounts.find((each) => each.point === point) as Mount;
  return nfsMountOf(
    mount,
    guestStats.find(({ mountPoint }) => mountPoint === point),
  );
}

const mounted = (options: string, type = "nfs4"): NfsMount =>
  nfsMountOf({ device: "0:40", point: "/mnt/kv", type, source: "nas:/kv", options: options.split(",") });

/** The findings that ask for a change, by option. */
const asked = (mount: NfsMount): string[] =>
  judgeMount(mount).flatMap(({ subject, change }) =>
    change === undefined ? [] : [subject.split(" ").at(-1) as string],
  );

describe("the facts of a mount", () => {
  it("are read of NFS 4.2 and 3 as Linux mounts them by default", () => {
    const common = { connections: 1, recovery: "hard", timeoutMs: 60_000, retries: 2, lookupCache: "all" } as const;
    const caches = { fileCacheSeconds: [3, 60], folderCacheSeconds: [30, 60] } as const;
    const expected = { ...common, ...caches, protocol: "tcp", security: "sys", readOnly: false, sync: false };
    expect(guestMount("/run/nfs/c2v4")).toMatchObject({ ...expected, version: "4.2", readBytesMax: 262_144 });
    expect(guestMount("/run/nfs/c2v3")).toMatchObject({ ...expected, version: "3", source: "10.0.2.1:/run/export" });
  });

  it("are read where options differ from the defaults", () => {
    expect(
      mounted("rw,noatime,vers=4.1,rsize=1048576,wsize=65536,softerr,proto=rdma,timeo=50,retrans=5"),
    ).toMatchObject({
      version: "4.1",
      protocol: "rdma",
      recovery: "softerr",
      timeoutMs: 5000,
      retries: 5,
      accessTimes: "noatime",
    });
    const { lookupCache, connections } = mounted("rw,vers=3,proto=tcp,nconnect=16,lookupcache=pos", "nfs");
    expect({ lookupCache, connections }).toEqual({ lookupCache: "positive", connections: 16 });
    expect(mounted("ro,noac,vers=4.2,proto=tcp,fsc,sec=krb5").folderCacheSeconds).toEqual([0, 0]);
    expect(mounted("ro,acdirmin=0,acdirmax=0,vers=4.2").folderCacheSeconds).toEqual([0, 0]);
    expect(mounted("rw,proto=tcp").version).toBe("4.0");
  });
});

describe("statistics of a mount", () => {
  it("are read of a real client, of NFS mounts alone", () => {
    expect(guestStats.map(({ mountPoint }) => mountPoint)).toEqual(["/run/nfs/c2v4", "/run/nfs/c2v3"]);
    for (const { operations, options } of guestStats) {
      expect(operations.size).toBeGreaterThan(15);
      expect(operations.get("GETATTR")?.requests).toBeGreaterThan(0);
      expect(options).toContain("acdirmin=30");
    }
  });

  it("become counters: what was sent again, was in vain, and how long the network took", () => {
    expect(busy.mountPoint).toBe("/mnt/kv cache");
    expect(mountCounters(busy)).toEqual({
      nfs_requests_total: 2015,
      nfs_lookup_requests_total: 200,
      nfs_getattr_requests_total: 300,
      nfs_listing_requests_total: 10,
      nfs_read_requests_total: 1000,
      nfs_write_requests_total: 500,
      nfs_error_answers_total: 152,
      nfs_retransmissions_total: 5,
      nfs_timeouts_total: 1,
      nfs_connects_total: 7,
      nfs_sent_bytes_total: 176 + 200_000 + 524_288_000 + 60_000 + 50_000 + 148 + 2000,
      nfs_received_bytes_total: 96 + 1_048_576_000 + 80_000 + 72_000 + 30_000 + 260 + 90_000,
      nfs_round_trip_seconds_total: 7.663,
      nfs_queue_seconds_total: 2.005,
    });
  });

  it("never throw, whatever the kernel writes", () => {
    const text = sample("busy-mountstats");
    fc.assert(
      fc.property(fc.nat(text.length), fc.nat(200), fc.string(), (at, length, other) => {
        for (const stats of parseMountStats(text.slice(0, at) + other + text.slice(at + length))) {
          for (const value of Object.values(mountCounters(stats))) expect(value).toBeGreaterThanOrEqual(0);
        }
      }),
    );
  });
});

describe("the judgement of a mount", () => {
  it("finds nothing to change in the line that docs/nfs.md recommends", () => {
    const line =
      "rw,noatime,vers=4.2,rsize=1048576,wsize=1048576,hard,proto=tcp,nconnect=8,timeo=600,retrans=2,sec=sys";
    expect(asked(mounted(line))).toEqual([]);
    expect(worstSeverity(judgeMount(mounted(line)))).toBe("fine");
  });

  it("names each option that costs something, what it means and what to change", () => {
    expect(asked(guestMount("/run/nfs/c2v3"))).toEqual(["vers", "rsize", "wsize", "nconnect"]);
    const bad = "ro,sync,vers=4.0,rsize=65536,wsize=65536,soft,proto=udp,timeo=10,retrans=1,noac,fsc,sec=krb5p";
    const all = ["ro", "proto", "vers", "soft", "rsize", "wsize", "sync", "nconnect", "actimeo", "fsc"];
    expect(asked(mounted(bad))).toEqual(all);
    const findings = judgeMount(mounted(bad));
    expect(findings.filter(({ severity }) => severity === "problem").map(({ subject }) => subject)).toEqual([
      "mount option ro",
      "mount option proto",
    ]);
    expect(findings.find(({ subject }) => subject.endsWith(" soft"))?.found).toContain("EIO after about 2 s");
    for (const { found, means } of findings) expect(`${found}${means}`).not.toContain("undefined");
    expect(asked(mounted("rw,vers=4.2,rsize=1048576,wsize=1048576,proto=rdma,lookupcache=none,hard"))).toEqual([
      "lookupcache",
    ]);
  });
});

describe("a root that is not on NFS", () => {
  it("is refused by name, before anything is made in it", async () => {
    const folder = mkdtempSync(join(tmpdir(), "kvferry-nfs-"));
    try {
      const root = join(folder, "not-there-yet");
      const refusal = { code: "CONFIG_INVALID", context: { field: "root" } };
      await expect(readNfsMount(root)).rejects.toMatchObject({ ...refusal, message: expect.stringContaining("posix") });
      const namespace = createNamespace({
        ...{ model: "m", weights: "00".repeat(32), dtype: "bfloat16", kvDtype: "bfloat16", layout: "direct" },
        ...{ tokensPerHash: 16, blocksPerChunk: 1, groups: [{ tokensPerBlock: 16, layers: ["layer.0"] }] },
        ...{ parallel: null, engine: "test", engineVersion: "1", formatVersion: 1, tenant: "" },
      });
      const backend = new NfsBackend({ root });
      await expect(backend.open({ namespace, keyBytes: 36, blockBytes: 4096 })).rejects.toMatchObject(refusal);
      await backend.close();
      await expect(readNfsMount(folder)).rejects.toMatchObject(refusal);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it("has bounds for its own settings, too", () => {
    for (const negativeTtlMs of [0, 399, Number.NaN, 1e9]) {
      const refusal = expect.objectContaining({ code: "CONFIG_INVALID", context: { field: "negativeTtlMs" } });
      expect(() => new NfsBackend({ root: "/mnt/kv", negativeTtlMs })).toThrow(refusal);
    }
  });
});

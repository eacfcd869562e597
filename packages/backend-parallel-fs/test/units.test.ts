import { describe, expect, it } from "vitest";
import { parseMmlsattr, parseMmlsfs } from "../src/gpfs/attributes.js";
import {
  type GpfsFacts,
  judgeGpfs,
  judgeLustre,
  type LustreFacts,
  layoutFor,
  ParallelFsBackend,
  type ParallelFsConfig,
  parseLayout,
  parseLustreDf,
} from "../src/index.js";
import { RecentUsage } from "../src/recent-usage.js";

const KIB = 1 << 10;
const MIB = 1 << 20;

describe("the layout for a block", () => {
  it.each([
    [68 * KIB, 1, 128 * KIB],
    [MIB + 4 * KIB, 1, MIB + 64 * KIB],
    [16 * MIB, 1, 16 * MIB],
    [16 * MIB + 4 * KIB, 2, 8 * MIB + 64 * KIB],
    [1024 * MIB, 8, 128 * MIB],
  ])("of %i bytes is %i stripes of %i", (fileBytes, stripeCount, stripeBytes) => {
    const layout = layoutFor(fileBytes, {});
    expect(layout).toEqual({ stripeCount, stripeBytes, pool: undefined, mdtBytes: 0 });
    expect(layout.stripeCount * layout.stripeBytes).toBeGreaterThanOrEqual(fileBytes);
  });

  it("is on the MDT as a whole, or not at all", () => {
    expect(layoutFor(68 * KIB, { dataOnMdt: true }).mdtBytes).toBe(128 * KIB);
    expect(layoutFor(MIB, { dataOnMdt: true }).mdtBytes).toBe(MIB);
    expect(layoutFor(MIB + 4 * KIB, { dataOnMdt: true }).mdtBytes).toBe(0);
  });
});

describe("the count of blocks", () => {
  const counted = (blocks: number) => {
    let calls = 0;
    let nowMs = 0;
    const usage = new RecentUsage(() => nowMs);
    const get = () => usage.get(async () => ({ blocks, bytes: ++calls, capacityBytes: undefined }));
    return { get, calls: () => calls, pass: (ms: number) => (nowMs += ms) };
  };

  it("is always new of a few", async () => {
    const few = counted(9999);
    for (let i = 1; i <= 3; i++) expect((await few.get()).bytes).toBe(i);
  });

  it("asks the metadata servers for at most 10,000 blocks a second of many, however often metrics are scraped", async () => {
    const many = counted(1_000_000); // 100 s
    await Promise.all([many.get(), many.get(), many.get()]);
    many.pass(99_000);
    expect((await many.get()).bytes).toBe(1);
    many.pass(1_001);
    expect((await many.get()).bytes).toBe(2);
    expect(many.calls()).toBe(2);
  });

  it("is tried again at once when it failed", async () => {
    const usage = new RecentUsage(() => 0);
    await expect(usage.get(() => Promise.reject(new Error("away")))).rejects.toThrow("away");
    expect((await usage.get(async () => ({ blocks: 1, bytes: 2, capacityBytes: undefined }))).bytes).toBe(2);
  });
});

describe("settings", () => {
  it.each([
    [{ striping: "other" }, "striping"],
    [{ stripeCount: 0 }, "stripeCount"],
    [{ stripeCount: 1.5 }, "stripeCount"],
    [{ stripeBytes: 65_537 }, "stripeBytes"],
    [{ stripeBytes: 2 ** 32 }, "stripeBytes"],
    [{ pool: "fs.pool" }, "pool"],
    [{ pool: `-E${"x".repeat(14)}` }, "pool"],
    [{ root: "relative" }, "root"],
  ])("refuse %j and name the field", (config, field) => {
    expect(() => new ParallelFsBackend({ root: "/never/made", ...config } as ParallelFsConfig)).toThrow(
      expect.objectContaining({ code: "CONFIG_INVALID", context: expect.objectContaining({ field }) }),
    );
  });
});

describe("what lfs getstripe prints", () => {
  it.each([
    ["stripe_count:  0 stripe_size:   0 pattern:       raid0 stripe_offset: -1\n", "none"],
    ["", "none"],
    [
      "stripe_count:  2 stripe_size:   4194304 pattern:       0 stripe_offset: -1\n", // wiki.lustre.org, Configuring_Lustre_File_Striping
      { stripeCount: 2, stripeBytes: 4 * MIB, pool: undefined, mdtBytes: 0 },
    ],
    [
      "lmm_stripe_count:  1\nlmm_stripe_size:   1048576\nlmm_pattern:       raid0\nlmm_layout_gen:    0\nlmm_stripe_offset: 1\nlmm_pool:          flash\n",
      { stripeCount: 1, stripeBytes: MIB, pool: "flash", mdtBytes: 0 },
    ],
    [
      "  lcm_layout_gen:    0\n  lcm_entry_count:   1\n    lcme_id: N/A\n stripe_count: 1 pattern: raid0\n",
      "composite",
    ],
  ])("is read: %j", (text, layout) => expect(parseLayout(text)).toEqual(layout));
});

/** lfs-df(1), its example in KiB. */
const DF = `UUID                 1K-blocks  Used   Available Use% Mounted on
testfs-MDT0000_UUID  13631488  1258291   11534336  10% /testfs[MDT:0]
testfs-OST0000_UUID   3774873  3040870  599756  84% /testfs[OST:0]
testfs-OST0001_UUID   3774873  3250585  483840  87% /mnt/a b[OST:1] D
testfs-OST0002_UUID   3774873  3145728  583987  84% /testfs[OST:2] DR
OST0003           : inactive device
testfs-OST0006_UUID   5662310  5138022  427622  92% /testfs[OST:3]

filesystem_summary:  16986931 14470348    2097152  88% /testfs
`;

const facts: LustreFacts = {
  folder: "/lustre/kv",
  mount: undefined,
  lfsTrouble: undefined,
  layout: layoutFor(MIB, {}),
  wanted: layoutFor(MIB, {}),
  striping: "auto",
  targets: parseLustreDf(DF),
  pool: undefined,
};

describe("what lfs df prints", () => {
  it("is read, with what is wrong with a target", () => {
    expect(parseLustreDf(DF).map(({ name, kind, flags, away }) => [name, kind, flags, away])).toEqual([
      ["testfs-MDT0000", "MDT", "", undefined],
      ["testfs-OST0000", "OST", "", undefined],
      ["testfs-OST0001", "OST", "D", undefined],
      ["testfs-OST0002", "OST", "DR", undefined],
      ["OST0003", "OST", "", "inactive device"],
      ["testfs-OST0006", "OST", "", undefined],
    ]);
    expect(parseLustreDf(DF)[1]).toMatchObject({
      bytes: 3774873 * KIB,
      usedBytes: 3040870 * KIB,
      freeBytes: 599756 * KIB,
    });
  });

  it("is judged: the fullest OST, and those in trouble", () => {
    const findings = judgeLustre(facts);
    expect(findings.map(({ severity, subject, found }) => [severity, subject, found])).toEqual([
      ["fine", "layout", "1 stripe of 1048576 bytes"],
      ["advice", "fullest OST", "testfs-OST0006 is 92 % full"],
      ["advice", "testfs-OST0001", "degraded: slow, and avoided for new files"],
      ["advice", "testfs-OST0002", expect.stringContaining("read-only")],
      ["advice", "OST0003", "inactive device"],
    ]);
  });

  it("is a problem when all OSTs are full, or none is there", () => {
    const worst = (targets: LustreFacts["targets"]) =>
      judgeLustre({ ...facts, targets }).filter(({ severity }) => severity === "problem");
    const full = parseLustreDf(DF).map((each) => ({ ...each, usedBytes: 95, freeBytes: 5 }));
    expect(worst(full)).toHaveLength(1);
    expect(worst([])).toHaveLength(1);
    expect(worst(parseLustreDf(DF))).toHaveLength(0);
  });
});

describe("a mount of Lustre", () => {
  const mounted = (options: string[]) => {
    const mount = { device: "0:1", point: "/lustre", type: "lustre", source: "mgs@tcp:/testfs", options };
    return judgeLustre({ ...facts, targets: undefined, mount }).filter(({ subject }) => subject !== "layout");
  };

  it("may have any of the lock options", () => {
    expect(mounted(["rw", "flock", "lazystatfs"])).toEqual([
      expect.objectContaining({ severity: "fine", subject: "file locks", found: "flock" }),
    ]);
    expect(mounted(["rw"])[0]).toMatchObject({ severity: "fine", found: "not told" });
  });

  it("should not wait for OSTs that are away when it is asked for free space", () => {
    expect(mounted(["rw", "nolazystatfs"])[1]).toMatchObject({
      severity: "advice",
      change: expect.stringContaining("lazystatfs"),
    });
  });
});

describe("another layout", () => {
  it("is named with the command for ours", () => {
    const [set] = judgeLustre({ ...facts, layout: "none", targets: undefined });
    expect(set).toMatchObject({ severity: "fine", means: expect.stringContaining("kvferry gives its folders") });
    const [left] = judgeLustre({ ...facts, layout: "none", striping: "keep", targets: undefined });
    expect(left).toMatchObject({
      severity: "advice",
      found: "none of its own",
      change: expect.stringContaining("`lfs setstripe -c 1 -S 1048576 /lustre/kv`"),
    });
    const [failed] = judgeLustre({ ...facts, layout: "composite", striping: "replace", targets: undefined });
    expect(failed?.change).toBe("`lfs setstripe -c 1 -S 1048576 /lustre/kv`");
    const [kept] = judgeLustre({ ...facts, layout: "composite", targets: undefined });
    expect(kept?.change).toContain("striping: replace");
  });
});

describe("what Storage Scale's commands print", () => {
  it("is read", () => {
    const text =
      "mmlsfs::HEADER:version:reserved:reserved:deviceName:fieldName:data:remarks:\nmmlsfs::0:1:::gpfs1:blockSize:8388608::\nmmlsfs::0:1:::gpfs1:defaultMountPoint:%2Fgpfs%2Ffs1::\n";
    expect(parseMmlsfs(text)).toEqual(
      new Map([
        ["blockSize", "8388608"],
        ["defaultMountPoint", "/gpfs/fs1"],
      ]),
    );
    expect(parseMmlsfs("mmlsfs: File system x is not known to the GPFS cluster.")).toEqual(new Map());
    expect(parseMmlsattr("storage pool name:    data\nfileset name:         kv\nsnapshot name:\n")).toEqual({
      fileset: "kv",
      pool: "data",
    });
    expect(parseMmlsattr("fileset name:\nsnapshot name: s\n").fileset).toBeUndefined();
  });

  it("is judged: files that leave much of their subblocks unused", () => {
    const gpfs: GpfsFacts = {
      ...{
        folder: "/gpfs/kv",
        blockBytes: 4 * MIB,
        subblockBytes: 8 * KIB,
        statfsBlockBytes: 4 * MIB,
        fileset: "kv",
        pool: "data",
      },
      fileBytes: 68 * KIB,
    };
    const blockSize = (more: Partial<GpfsFacts>) =>
      judgeGpfs({ ...gpfs, ...more }).find(({ subject }) => subject === "block size");
    expect(blockSize({})?.severity).toBe("fine");
    expect(blockSize({ subblockBytes: 512 * KIB })).toMatchObject({
      severity: "advice",
      means: expect.stringContaining("87 %"),
    });
    expect(blockSize({ blockBytes: undefined, subblockBytes: undefined })?.found).toContain("by statfs");
  });
});

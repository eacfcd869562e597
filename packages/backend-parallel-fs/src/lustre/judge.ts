import { type Finding, type Mount, mountOption } from "@kvferry/core";
import type { Striping } from "../config.js";
import { type LustreTarget, usedRatio } from "./df.js";
import { type FoundLayout, isSameLayout, type Layout, layoutText, setstripeArguments } from "./layout.js";

/** What is known of a folder on Lustre; undefined: not known, because `lfs` is not there or did not answer. */
export interface LustreFacts {
  readonly folder: string;
  /** undefined where /proc does not tell. */
  readonly mount: Mount | undefined;
  /** Why `lfs` could not be used, or undefined. */
  readonly lfsTrouble: string | undefined;
  /** What files in the folder get. */
  readonly layout: FoundLayout | undefined;
  /** What they should get. */
  readonly wanted: Layout;
  /** What we do about another layout: give folders of ours that have none of their own the wanted one, leave all as they are, or replace it. */
  readonly striping: Striping;
  readonly targets: readonly LustreTarget[] | undefined;
  readonly pool: string | undefined;
}

/** An OST fuller than this is soon one that the others have to stand in for. */
export const OST_USED_RATIO_MAX = 0.9;

const FLAGS: Readonly<Record<string, string>> = {
  D: "degraded: slow, and avoided for new files",
  N: "closed to new files",
  R: "read-only: its file system is damaged",
  S: "out of space",
  I: "out of inodes",
};

/** What the facts mean for blocks on Lustre. */
export function judgeLustre(facts: LustreFacts): Finding[] {
  return [...tool(facts), ...layout(facts), ...space(facts), ...mountOptions(facts)];
}

function tool({ lfsTrouble }: LustreFacts): Finding[] {
  if (lfsTrouble === undefined) return [];
  return [
    {
      ...{ severity: "advice", subject: "lfs", found: lfsTrouble },
      means: "the layout of files is left as it is, and how full each OST is cannot be told",
      change: "put the `lfs` of the Lustre client on the PATH of the server",
    },
  ];
}

function layout({ folder, layout: found, wanted, striping }: LustreFacts): Finding[] {
  if (found === undefined) return [];
  const subject = "layout";
  const text = layoutText(found);
  if (found !== "none" && found !== "composite" && isSameLayout(found, wanted)) {
    return [{ severity: "fine", subject, found: text, means: "right for this block size" }];
  }
  const change = `lfs setstripe ${setstripeArguments(wanted).join(" ")} ${folder}`;
  if (found === "none" && striping !== "keep") {
    return [{ severity: "fine", subject, found: text, means: `kvferry gives its folders in it ${layoutText(wanted)}` }];
  }
  const how =
    striping !== "replace"
      ? `nothing if this is meant; else set \`striping: replace\`, or run \`${change}\``
      : `\`${change}\``;
  const means =
    found === "none"
      ? "files get the file system's default layout, which is seldom made for this block size"
      : `kvferry would take ${layoutText(wanted)}`;
  return [{ severity: "advice", subject, found: text, means, change: how }];
}

function space({ targets, pool }: LustreFacts): Finding[] {
  if (targets === undefined) return [];
  const osts = targets.filter(({ kind }) => kind === "OST");
  if (osts.length === 0) {
    const found = pool === undefined ? "none listed" : `none in the pool ${pool}`;
    return [
      {
        ...{ severity: "problem", subject: "OSTs", found, means: "files have no place to go" },
        change: "see `lfs df`, and `lfs pool_list` for the pools",
      },
    ];
  }
  return [fullness(osts.filter(({ away }) => away === undefined)), ...osts.flatMap(trouble)];
}

function fullness(osts: readonly LustreTarget[]): Finding {
  const subject = "fullest OST";
  const full = osts.filter((each) => usedRatio(each) > OST_USED_RATIO_MAX);
  const fullest = [...osts].sort((a, b) => usedRatio(b) - usedRatio(a))[0];
  if (fullest === undefined) {
    return { severity: "problem", subject, found: "no OST answers", means: "blocks can be neither stored nor loaded" };
  }
  const found = `${fullest.name} is ${Math.floor(usedRatio(fullest) * 100)} % full`;
  if (full.length === 0) return { severity: "fine", subject, found, means: "files find room on all of them" };
  const all = full.length === osts.length;
  return {
    ...{ severity: all ? "problem" : "advice", subject },
    found: full.length === 1 ? found : `${found}, ${full.length} of ${osts.length} are above 90 %`,
    means: all
      ? "the file system is about to be full: stores will be refused"
      : "a block that is meant for a full OST is not stored (NO_SPACE); others go on",
    change: all
      ? "free space, or set a smaller `capacity`"
      : "have the administrator move files with `lfs migrate`, or name another `pool`",
  };
}

function trouble({ name, flags, away }: LustreTarget): Finding[] {
  const words = [...flags].flatMap((flag) => FLAGS[flag] ?? []);
  if (away === undefined && words.length === 0) return [];
  return [
    {
      ...{ severity: "advice", subject: name, found: away ?? words.join("; ") },
      means: away === undefined ? "fewer OSTs share the work" : "loads of the blocks on it wait until it is back",
      change: "see the servers of the file system",
    },
  ];
}

function mountOptions({ mount }: LustreFacts): Finding[] {
  if (mount === undefined) return [];
  const findings: Finding[] = [];
  const locks = ["flock", "localflock", "noflock"].find((each) => mountOption(mount, each) !== undefined);
  findings.push({
    ...{ severity: "fine", subject: "file locks", found: locks ?? "not told" },
    means: "kvferry takes no file locks here, so that any of flock, localflock and noflock will do",
  });
  if (mountOption(mount, "nolazystatfs") !== undefined) {
    findings.push({
      ...{ severity: "advice", subject: "mount option nolazystatfs", found: "set" },
      means: "asking for free space hangs while one OST is away",
      change: "mount with `lazystatfs`",
    });
  }
  return findings;
}

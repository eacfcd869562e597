import {
  type BlockSpeed,
  type FileSystemKind,
  type Finding,
  type FolderFacts,
  mountOption,
  type Severity,
} from "@kvferry/core";
import { bytesText } from "../sizes.js";

type Measured = NonNullable<FolderFacts["measured"]>;

const MIB = 2 ** 20;
const GIB = 2 ** 30;
/** Below this a cache is hardly worth having. */
const BYTES_FREE_MIN = 10 * GIB;
/** A second client that sees a change later than this looks twice in vain. */
const SEEN_MS = 1000;
/** A depth or size is enough if it reaches this much of the best. */
const ENOUGH = 0.85;

const WHERE: Readonly<Record<FileSystemKind, readonly [Severity, string, string?]>> = {
  local: ["fine", "a drive of this host: fast, and seen by this host alone"],
  memory: [
    "advice",
    "this host's memory: lost at a restart",
    "use a tier `backend: memory` for host memory, and a drive or shared storage below it",
  ],
  network: ["fine", "shared by hosts; its calls hang while its server does"],
  parallel: ["fine", "shared by hosts, the same for all of them; its calls hang while its servers do"],
  "user-space": ["fine", "a process of this host answers its calls, which hang while that one does"],
  overlay: [
    "problem",
    "the writable layer of a container: slow, and lost with the container",
    "mount a volume of the host there",
  ],
  unknown: [
    "advice",
    "a file system that kvferry does not know",
    "run `kvferry doctor --report FILE.json` and open an issue with the file",
  ],
};

/** What the facts mean, whatever the file system.
 * @param own what only the file system's own backend knows to say. */
export function judgeFolder(facts: FolderFacts, own: readonly Finding[]): Finding[] {
  const told = new Set(own.map(({ subject }) => subject));
  const options = mountOptions(facts).filter(({ subject }) => !told.has(subject));
  return [where(facts), ...space(facts), ...calls(facts), ...options, ...own, visibility(facts), ...speeds(facts)];
}

function where({ fileSystem, mount }: FolderFacts): Finding {
  const [severity, means, change] = WHERE[fileSystem.kind];
  const found = mount === undefined ? fileSystem.name : `${mount.type} at ${mount.point} (${mount.source})`;
  return { severity, subject: "file system", found, means, change };
}

function space({ space: { bytes, bytesFree, files, filesFree } }: FolderFacts): Finding[] {
  const found = `${bytesText(bytesFree)} of ${bytesText(bytes)} free`;
  const little = bytesFree < BYTES_FREE_MIN;
  const findings: Finding[] = [
    little
      ? {
          severity: "advice",
          subject: "space",
          found,
          means: "room for little",
          change: "free some, or take a larger file system",
        }
      : { severity: "fine", subject: "space", found, means: "set `capacity`, so that it is never full" },
  ];
  if (files > 0 && filesFree < bytesFree / MIB) {
    findings.push({
      severity: "advice",
      subject: "files",
      found: `${filesFree} more files fit`,
      means: "with a file for each block of 1 MiB it runs out of files before it runs out of bytes",
      change: `set \`filesMax: ${Math.floor(filesFree * 0.9)}\`, or make the file system with more inodes`,
    });
  }
  return findings;
}

function calls({ features, fileSystem }: FolderFacts): Finding[] {
  const { errno } = features;
  const findings: Finding[] = [];
  for (const [subject, code, means] of [
    ["exclusive create", errno.exclusiveCreate, "two servers may take one name: a shared capacity cannot hold"],
    ["rename onto a name", errno.renameOver, "a block cannot get its name in one step: half of one could be seen"],
  ] as const) {
    findings.push(
      code === 0
        ? { severity: "fine", subject, found: "works", means: "blocks appear whole, or not at all" }
        : { severity: "problem", subject, found: `errno ${code}`, means, change: "use another file system" },
    );
  }
  findings.push(direct(features));
  const preallocates = errno.fallocate === 0;
  if (fileSystem.kind === "local" || fileSystem.kind === "memory") {
    findings.push({
      severity: preallocates ? "fine" : "advice",
      subject: "fallocate",
      found: preallocates ? "works" : `errno ${errno.fallocate}`,
      means: preallocates
        ? "a tier `backend: nvme` takes all its room at the start"
        : "a tier `backend: nvme` may meet a full file system later",
      change: preallocates ? undefined : "keep more room free than the tiers' `capacity`",
    });
  }
  if (features.timestampStepNs >= 1e9) {
    findings.push({
      severity: "advice",
      subject: "times",
      found: `step by ${(features.timestampStepNs / 1e9).toFixed(1)} s`,
      means: "the order in which blocks were stored is known to seconds only",
    });
  }
  return findings;
}

function direct({
  errno,
  directAlignmentBytes,
  directTransferBytes,
  transferAskedBytes,
}: FolderFacts["features"]): Finding {
  const subject = "O_DIRECT";
  if (errno.direct !== 0) {
    return {
      severity: "advice",
      subject,
      found: `errno ${errno.direct}`,
      means: "blocks go through the page cache: memory and a copy for each",
      change: "nothing, if the file system has no O_DIRECT; kvferry goes on without",
    };
  }
  const short = directTransferBytes < transferAskedBytes;
  const found = `works, aligned to ${directAlignmentBytes} byte${directAlignmentBytes === 1 ? "" : "s"}${short ? `, ${bytesText(directTransferBytes)} a call` : ""}`;
  if (directAlignmentBytes > 4096) {
    const means = "kvferry aligns to 4096: it goes through the page cache here";
    return { severity: "advice", subject, found, means };
  }
  return { severity: "fine", subject, found, means: "blocks go past the page cache" };
}

function mountOptions({ mount }: FolderFacts): Finding[] {
  if (mount === undefined) return [];
  const findings: Finding[] = [];
  if (mountOption(mount, "sync") !== undefined) {
    findings.push({
      ...{ severity: "advice", subject: "mount option sync", found: "set" },
      means: "each block waits for the drive; a cache that verifies does not need it",
      change: "mount without `sync`",
    });
  }
  if (mountOption(mount, "noatime") === undefined && mountOption(mount, "relatime") === undefined) {
    findings.push({
      ...{ severity: "advice", subject: "mount option noatime", found: "not set" },
      means: "each load may write the time of the access",
      change: "mount with `noatime`",
    });
  }
  return findings;
}

function visibility({ visibility: seen, fileSystem }: FolderFacts): Finding {
  const times = [seen.createMs, seen.rewriteMs, seen.unlinkMs];
  const text = (ms: number | undefined): string => (ms === undefined ? "not in time" : `after ${ms.toFixed(0)} ms`);
  const found = `${seen.observer} saw a new file ${text(seen.createMs)}, a replaced one ${text(seen.rewriteMs)}, a removed one ${text(seen.unlinkMs)}`;
  const subject = "a second process";
  if (seen.failure !== undefined) {
    const means = "when other nodes see what this one stores is not known";
    const change = "run the command by hand: it has to print nothing, and to wait for its input";
    return { severity: "problem", subject, found: seen.failure, means, change };
  }
  if (times.every((ms) => ms !== undefined && ms <= SEEN_MS)) {
    return { severity: "fine", subject, found, means: "blocks of one server are hits for others at once" };
  }
  if (fileSystem.name === "nfs") {
    const means = "a plain look is answered from the kernel's caches; a tier `backend: nfs` looks past them";
    return { severity: "fine", subject, found, means };
  }
  return {
    severity: "advice",
    subject,
    found,
    means: "blocks that others have just stored are found late, and removed ones are asked for in vain",
    change: "have the file system's client cache names for a shorter time",
  };
}

function speeds({ measured, fileSystem }: FolderFacts): Finding[] {
  return measured === undefined ? [] : judgeSpeeds(measured, fileSystem.kind);
}

function judgeSpeeds({ speeds: measured, uncached }: Measured, kind: FileSystemKind): Finding[] {
  const best = fastest(measured);
  if (best === undefined) {
    const change = "free some room, and try again";
    return [
      { severity: "advice", subject: "speed", found: "not measured", means: "there was too little room", change },
    ];
  }
  const rate = (bytes: number): string => `${bytesText(bytes)}/s`;
  const where = uncached ? "" : "; perhaps of the page cache, as O_DIRECT does not work";
  const found = `stores ${rate(best.storeBytesPerSecond)}, loads ${rate(best.loadBytesPerSecond)} (${bytesText(best.blockBytes)}, ${best.depth} at a time)${where}`;
  const tokens = best.loadBytesPerSecond / BYTES_A_TOKEN;
  const findings: Finding[] = [
    {
      ...{ severity: "fine", subject: "speed", found },
      means: `loads about ${tokens.toFixed(0)} tokens a second of a model such as Llama-3.1-70B (320 KB a token): worth it where the engine computes fewer`,
    },
  ];
  const smallest = smallestGoodBlock(measured);
  const packs = kind === "local" || kind === "memory"; // there a tier of another kind than files suits small blocks
  if (!packs && smallest !== undefined && smallest > 64 * 1024) {
    findings.push({
      ...{
        severity: "advice",
        subject: "block size",
        found: `${bytesText(64 * 1024)} blocks are much slower than ${bytesText(smallest)} ones`,
      },
      means: "many small blocks cost more than their bytes",
      change: `offload chunks of at least ${bytesText(smallest)}: more tokens a chunk in the engine's configuration`,
    });
  }
  return findings;
}

/** A token of Llama-3.1-70B: 80 layers × 8 KV heads × 128 × 2 (K and V) × 2 bytes. */
const BYTES_A_TOKEN = 80 * 8 * 128 * 2 * 2;

function fastest(measured: readonly BlockSpeed[]): BlockSpeed | undefined {
  return [...measured].sort((a, b) => b.loadBytesPerSecond - a.loadBytesPerSecond)[0];
}

/** The smallest size of blocks that comes near the best load speed. */
function smallestGoodBlock(measured: readonly BlockSpeed[]): number | undefined {
  return leastOf(measured, ({ blockBytes }) => blockBytes);
}

/** The fewest blocks at a time that come near the best load speed: so many threads are enough. */
export function enoughDepth(measured: readonly BlockSpeed[]): number | undefined {
  return leastOf(measured, ({ depth }) => depth);
}

/** The least that one can do with and come near the best load speed. */
function leastOf(measured: readonly BlockSpeed[], what: (speed: BlockSpeed) => number): number | undefined {
  const best = fastest(measured)?.loadBytesPerSecond ?? 0;
  return measured
    .filter(({ loadBytesPerSecond }) => loadBytesPerSecond >= best * ENOUGH)
    .map(what)
    .sort((a, b) => a - b)[0];
}

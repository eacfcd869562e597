import type { NfsMount } from "./nfs-mount.js";

/** How much a finding matters: `error`: it cannot work so; `warning`: it costs speed or answers; `hint`: worth a thought; `good`: as it should be. */
export type Severity = "error" | "warning" | "hint" | "good";

/** One thing that a mount's options mean for a cache of KV blocks. */
export interface Finding {
  /** The mount option it is about: `rsize`, `soft` … */
  readonly option: string;
  readonly severity: Severity;
  /** What it means here. */
  readonly meaning: string;
  /** What to change; undefined where nothing needs to be. */
  readonly change?: string;
}

/** What the mount is to be used for. */
export interface MountUse {
  /** Bytes of one block; default 1 MiB. */
  readonly blockBytes?: number;
  /** Default 1000. */
  readonly negativeTtlMs?: number;
}

const GOOD_TRANSFER_BYTES = 1 << 20;

/** Judges a mount in words, what matters most first. */
export function judgeMount(mount: NfsMount, use: MountUse = {}): Finding[] {
  const findings = [
    judgeReadOnly(mount),
    judgeVersion(mount),
    judgeProtocol(mount),
    judgeRecovery(mount),
    judgeTransfer("rsize", "READ", mount.readBytesMax, use.blockBytes ?? 1 << 20),
    judgeTransfer("wsize", "WRITE", mount.writeBytesMax, use.blockBytes ?? 1 << 20),
    judgeSync(mount),
    judgeConnections(mount),
    judgeNameCache(mount, use.negativeTtlMs ?? 1000),
    judgeSecurity(mount),
    judgeFsCache(mount),
    judgeAccessTimes(mount),
  ];
  const order: readonly Severity[] = ["error", "warning", "hint", "good"];
  return findings
    .filter((finding) => finding !== undefined)
    .sort((a, b) => order.indexOf(a.severity) - order.indexOf(b.severity));
}

function judgeReadOnly({ readOnly }: NfsMount): Finding | undefined {
  if (!readOnly) return undefined;
  const meaning = "nothing can be stored, and the server does not open a folder that it cannot write";
  return { option: "ro", severity: "error", meaning, change: "mount with rw, and export with rw" };
}

function judgeVersion({ version }: NfsMount): Finding {
  if (version === "4.2" || version === "4.1") {
    const meaning = `NFS ${version}: a request is done exactly once, also when it is sent again`;
    return { option: "vers", severity: "good", meaning };
  }
  if (version === "3") {
    const meaning =
      "NFS 3 works: a block that another node removes while it is read is asked for again by name. Requests that are sent again may be done twice, which is harmless here";
    return { option: "vers", severity: "hint", meaning, change: "vers=4.2 where the server has it" };
  }
  const meaning = `NFS ${version} has no sessions: opens of one client wait for each other, and many small blocks are slow`;
  return { option: "vers", severity: "warning", meaning, change: "vers=4.2, or vers=3" };
}

function judgeProtocol({ protocol }: NfsMount): Finding {
  if (protocol.startsWith("udp")) {
    const meaning =
      "over UDP a lost packet loses a whole block's transfer, and big transfers can be put together wrongly";
    return { option: "proto", severity: "error", meaning, change: "proto=tcp, or proto=rdma" };
  }
  const meaning = protocol.startsWith("rdma") ? "RDMA moves blocks without copies by the CPU" : "TCP";
  return { option: "proto", severity: "good", meaning };
}

function judgeRecovery({ recovery, timeoutMs, retries }: NfsMount): Finding {
  if (recovery === "hard") {
    const meaning =
      "hard: requests wait for a server that is away, for as long as it takes. Calls end at their deadlines all the same; threads that hang in the kernel are counted and bounded";
    return { option: "hard", severity: "good", meaning };
  }
  const seconds = (timeoutMs * (retries + 1)) / 1000;
  const error = recovery === "soft" ? "EIO" : "ETIMEDOUT";
  const meaning = `${recovery}: a server that does not answer for about ${seconds} s gives ${error}: the store or load fails, which is tried again or recomputed, and nothing wrong is served`;
  if (seconds >= 10) return { option: recovery, severity: "hint", meaning };
  return {
    option: recovery,
    severity: "warning",
    meaning: `${meaning}; so short a time also gives up on a server that is only busy`,
    change: "hard, or a longer timeo (tenths of a second) and retrans",
  };
}

function judgeTransfer(option: string, request: string, bytes: number, blockBytes: number): Finding {
  const requests = Math.ceil(blockBytes / Math.max(1, bytes));
  const each = `a block of ${blockBytes} bytes takes ${requests} ${request}${requests === 1 ? "" : "s"} of at most ${bytes} bytes`;
  if (bytes >= GOOD_TRANSFER_BYTES || requests === 1) return { option, severity: "good", meaning: each };
  return {
    option,
    severity: bytes < 1 << 18 ? "warning" : "hint",
    meaning: `${each}: each costs a round trip, or its place in the queue`,
    change: `${option}=${GOOD_TRANSFER_BYTES}; if the mount says less afterwards, the server allows no more (Linux: /proc/fs/nfsd/max_block_size)`,
  };
}

function judgeSync({ sync }: NfsMount): Finding | undefined {
  if (!sync) return undefined;
  const meaning = "sync: every write waits for the server's disk; a cache that verifies its blocks does not need that";
  return { option: "sync", severity: "warning", meaning, change: "leave sync out" };
}

function judgeConnections({ connections, protocol }: NfsMount): Finding {
  const meaning = `${connections} connection${connections === 1 ? "" : "s"}`;
  if (connections > 1 || protocol.startsWith("rdma")) return { option: "nconnect", severity: "good", meaning };
  return {
    option: "nconnect",
    severity: "hint",
    meaning:
      "1 connection: one TCP stream seldom fills a network of more than 10 Gbit/s, and big blocks hold up small requests behind them",
    change: "nconnect=8 (Linux 5.3); it counts for the first mount of a server on a node",
  };
}

function judgeNameCache({ lookupCache, folderCacheSeconds: [, max] }: NfsMount, negativeTtlMs: number): Finding {
  if (lookupCache === "all" && max > 0) {
    const meaning = `the kernel believes for up to ${max} s that a file is missing; this backend asks past that, and finds blocks of other nodes within ${negativeTtlMs} ms`;
    return { option: "lookupcache", severity: "good", meaning };
  }
  const [option, what] =
    max === 0 ? ["actimeo", "attributes are not cached"] : ["lookupcache", `lookupcache=${lookupCache}`];
  return {
    option,
    severity: "warning",
    meaning: `${what}: every name that is asked for costs a round trip, which this backend does not need to find the blocks of other nodes`,
    change: "leave out lookupcache, actimeo=0 and noac",
  };
}

function judgeSecurity({ security }: NfsMount): Finding {
  if (security === "krb5p") {
    return {
      option: "sec",
      severity: "hint",
      meaning: "krb5p encrypts every byte: private, at the cost of CPU time and bandwidth",
    };
  }
  if (security !== "sys") return { option: "sec", severity: "good", meaning: `${security}: the server knows who asks` };
  const meaning =
    "sec=sys: the server believes what the client says of its user, and the network sees the blocks: for a network of your own";
  return { option: "sec", severity: "hint", meaning };
}

function judgeFsCache({ fsCache }: NfsMount): Finding | undefined {
  if (!fsCache) return undefined;
  const meaning = "fsc keeps pages on a local disk; blocks are read with O_DIRECT, past it, so that it only costs";
  return { option: "fsc", severity: "hint", meaning, change: "leave fsc out; a tier on a local drive does it better" };
}

function judgeAccessTimes({ accessTimes }: NfsMount): Finding {
  const meaning =
    "access times are kept by the server, whatever the client's mount says (nfs(5)); noatime helps on the server's own file system";
  return { option: accessTimes === "" ? "atime" : accessTimes, severity: "good", meaning };
}

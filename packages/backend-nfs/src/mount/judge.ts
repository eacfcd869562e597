import type { Finding, Severity } from "@kvferry/core";
import type { NfsMount } from "./nfs-mount.js";

/** What the mount is to be used for. */
export interface MountUse {
  /** Bytes of one block; default 1 MiB. */
  readonly blockBytes?: number;
  /** Default 1000. */
  readonly negativeTtlMs?: number;
}

const GOOD_TRANSFER_BYTES = 1 << 20;
const SOFT_SECONDS_MIN = 10;

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
  const order: readonly Severity[] = ["problem", "advice", "fine"];
  return findings
    .filter((finding) => finding !== undefined)
    .sort((a, b) => order.indexOf(a.severity) - order.indexOf(b.severity));
}

function finding(severity: Severity, option: string, found: string, means: string, change?: string): Finding {
  return { severity, subject: `mount option ${option}`, found, means, ...(change === undefined ? {} : { change }) };
}

function judgeReadOnly({ readOnly }: NfsMount): Finding | undefined {
  if (!readOnly) return undefined;
  const means = "nothing can be stored, and a folder that cannot be written is not opened";
  return finding("problem", "ro", "read-only", means, "mount with rw, and export with rw");
}

function judgeVersion({ version }: NfsMount): Finding {
  const found = `NFS ${version}`;
  if (version === "4.2" || version === "4.1") {
    return finding("fine", "vers", found, "a request is done once, also when it is sent again");
  }
  if (version === "3") {
    const means =
      "works; a block that another node removes while it is read is asked for again by name. A request that is sent again may be done twice, which is harmless here";
    return finding("advice", "vers", found, means, "vers=4.2 where the server has it");
  }
  const means = "without sessions, opens of one client wait for each other: many small blocks are slow";
  return finding("advice", "vers", found, means, "vers=4.2, or vers=3");
}

function judgeProtocol({ protocol }: NfsMount): Finding {
  if (!protocol.startsWith("udp")) {
    const means = protocol.startsWith("rdma") ? "blocks are moved without copies by the CPU" : "as it should be";
    return finding("fine", "proto", protocol, means);
  }
  const means =
    "a lost packet loses a whole transfer, and pieces of two transfers can be put together: blocks that do not verify";
  return finding("problem", "proto", protocol, means, "proto=tcp, or proto=rdma");
}

function judgeRecovery({ recovery, timeoutMs, retries }: NfsMount): Finding {
  if (recovery === "hard") {
    const means =
      "requests wait for a server that is away, for as long as it takes; a mount that hangs holds threads until it is back";
    return finding("fine", "hard", "hard", means);
  }
  const seconds = (timeoutMs * (retries + 1)) / 1000;
  const error = recovery === "soft" ? "EIO" : "ETIMEDOUT";
  const found = `${recovery}: ${error} after about ${seconds} s without an answer`;
  const means = "a store or load fails then, and is tried again or computed again; nothing wrong is served";
  if (seconds >= SOFT_SECONDS_MIN) return finding("fine", recovery, found, means);
  const change = "hard, or a longer timeo (tenths of a second) and retrans";
  return finding(
    "advice",
    recovery,
    found,
    `${means}; so soon, this also happens when the server is only busy`,
    change,
  );
}

function judgeTransfer(option: string, request: string, bytes: number, blockBytes: number): Finding {
  const requests = Math.ceil(blockBytes / Math.max(1, bytes));
  const found = `${bytes} bytes a ${request} at most`;
  const means = `a block of ${blockBytes} bytes takes ${requests} request${requests === 1 ? "" : "s"}`;
  if (bytes >= GOOD_TRANSFER_BYTES || requests === 1) return finding("fine", option, found, means);
  const change = `${option}=${GOOD_TRANSFER_BYTES}; where the mount shows less afterwards, the server allows no more (Linux: /proc/fs/nfsd/max_block_size)`;
  return finding("advice", option, found, `${means}, each with its share of a round trip`, change);
}

function judgeSync({ sync }: NfsMount): Finding | undefined {
  if (!sync) return undefined;
  const means = "every write waits for the server's disk, which a cache that verifies its blocks does not need";
  return finding("advice", "sync", "sync", means, "leave sync out");
}

function judgeConnections({ connections, protocol }: NfsMount): Finding {
  const found = `${connections} connection${connections === 1 ? "" : "s"}`;
  if (connections > 1) return finding("fine", "nconnect", found, "requests are spread over them");
  if (protocol.startsWith("rdma")) return finding("fine", "nconnect", found, "enough with RDMA");
  const means =
    "one TCP stream seldom fills a network of more than 10 Gbit/s, and small requests wait behind big blocks";
  return finding(
    "advice",
    "nconnect",
    found,
    means,
    "nconnect=8 (Linux 5.3); the first mount of a server on a node decides",
  );
}

function judgeNameCache({ lookupCache, folderCacheSeconds: [, max] }: NfsMount, negativeTtlMs: number): Finding {
  if (lookupCache !== "none" && max > 0) {
    const found =
      lookupCache === "positive" ? "only names that are there are cached" : `up to ${max} s a name counts as missing`;
    const means = `the nfs backend asks past that: blocks of other nodes are found within ${negativeTtlMs} ms`;
    return finding("fine", "lookupcache", found, means);
  }
  const option = max === 0 ? "actimeo" : "lookupcache";
  const found = max === 0 ? "attributes are not cached" : "names are not cached";
  const means =
    "every file that is opened costs more round trips, which the nfs backend does not need to find blocks of other nodes";
  return finding("advice", option, found, means, "leave out lookupcache=none, actimeo=0 and noac");
}

function judgeSecurity({ security }: NfsMount): Finding {
  if (security === "krb5p")
    return finding("advice", "sec", security, "every byte is encrypted, which costs CPU time and bandwidth");
  if (security !== "sys") return finding("fine", "sec", security, "the server knows who asks");
  const means =
    "the server believes what the client says of its user, and the network sees the blocks: for a network of your own";
  return finding("fine", "sec", security, means);
}

function judgeFsCache({ fsCache }: NfsMount): Finding | undefined {
  if (!fsCache) return undefined;
  const means = "pages would be kept on a local disk too; blocks are read past it with O_DIRECT, so that it only costs";
  return finding("advice", "fsc", "fsc", means, "leave fsc out; a tier on a local drive does it better");
}

function judgeAccessTimes({ accessTimes }: NfsMount): Finding {
  const means =
    "access times are the server's, whatever the client's mount says (nfs(5)); noatime helps on the server's own file system";
  return finding("fine", accessTimes || "atime", accessTimes || "atime", means);
}

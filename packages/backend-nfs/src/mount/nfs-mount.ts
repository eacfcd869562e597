import type { Mount } from "@kvferry/core";
import type { NfsMountStats } from "./mountstats.js";

/** What an NFS mount was asked to be, or agreed on with its server. */
export interface NfsMount {
  readonly mountPoint: string;
  /** `server:/export` */
  readonly source: string;
  /** `3`, `4.0`, `4.1`, `4.2` */
  readonly version: string;
  /** `tcp`, `rdma`, `udp`; `tcp6`, `rdma6`, `udp6` */
  readonly protocol: string;
  /** TCP or RDMA connections. */
  readonly connections: number;
  /** Bytes that one READ, one WRITE moves at most. */
  readonly readBytesMax: number;
  readonly writeBytesMax: number;
  /** What happens to a request that the server does not answer: tried for ever, or given up with EIO or ETIMEDOUT. */
  readonly recovery: "hard" | "soft" | "softerr";
  /** Until a request is sent again; how often it is. */
  readonly timeoutMs: number;
  readonly retries: number;
  /** Names that the kernel remembers: all, those that are there, none. */
  readonly lookupCache: "all" | "positive" | "none";
  /** How long what is known of files and folders is believed: it begins with the first number and grows to the second. */
  readonly fileCacheSeconds: readonly [min: number, max: number];
  readonly folderCacheSeconds: readonly [min: number, max: number];
  readonly readOnly: boolean;
  /** Every write waits for the server's disk. */
  readonly sync: boolean;
  /** Pages that were read are kept on a local disk as well. */
  readonly fsCache: boolean;
  /** `sys`, `krb5`, `krb5i`, `krb5p` */
  readonly security: string;
  /** `noatime`, `relatime` or neither. */
  readonly accessTimes: string;
}

export function isNfs({ type }: Mount): boolean {
  return type === "nfs" || type === "nfs4";
}

/** @param stats of the same mount, for what the mount table leaves out. */
export function nfsMountOf(mount: Mount, stats?: NfsMountStats): NfsMount {
  const options = new Map<string, string>();
  for (const option of [...(stats?.options ?? []), ...mount.options]) {
    const [name = "", ...value] = option.split("=");
    options.set(name, value.join("="));
  }
  const number = (name: string, otherwise: number): number => {
    const value = Number(options.get(name) ?? Number.NaN);
    return Number.isFinite(value) ? value : otherwise;
  };
  const protocol = options.get("proto") ?? "tcp";
  const isUdp = protocol.startsWith("udp");
  const noCache = options.has("noac");
  return {
    mountPoint: mount.point,
    source: mount.source,
    version: versionOf(options.get("vers"), mount.type),
    protocol,
    connections: number("nconnect", 1),
    readBytesMax: number("rsize", 0),
    writeBytesMax: number("wsize", 0),
    recovery: options.has("softerr") ? "softerr" : options.has("soft") ? "soft" : "hard",
    timeoutMs: number("timeo", isUdp ? 7 : 600) * 100, // tenths of a second
    retries: number("retrans", isUdp ? 3 : 2),
    lookupCache: lookupCacheOf(options.get("lookupcache")),
    fileCacheSeconds: noCache ? [0, 0] : [number("acregmin", 3), number("acregmax", 60)],
    folderCacheSeconds: noCache ? [0, 0] : [number("acdirmin", 30), number("acdirmax", 60)],
    readOnly: mount.options.includes("ro"),
    sync: options.has("sync"),
    fsCache: options.has("fsc"),
    security: options.get("sec") ?? "sys",
    accessTimes: options.has("noatime") ? "noatime" : options.has("relatime") ? "relatime" : "",
  };
}

/** `4` is what old kernels say of 4.0. */
function versionOf(vers: string | undefined, type: string): string {
  if (vers === undefined) return type === "nfs4" ? "4.0" : "3";
  return vers === "4" ? "4.0" : vers;
}

function lookupCacheOf(option: string | undefined): NfsMount["lookupCache"] {
  if (option === "none") return "none";
  return option === "pos" || option === "positive" ? "positive" : "all";
}

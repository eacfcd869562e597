import { type FolderFacts, mayHang } from "@kvferry/core";
import type { TierConfig } from "../storage/tier-config.js";
import { enoughDepth } from "./judge-folder.js";

const GIB = 2 ** 30;
/** Of what is free: a drive of one's own, and storage that others use as well. */
const OWN_SHARE = 0.8;
const SHARED_SHARE = 0.5;
const THREADS_MIN = 8;

/** The tier that suits a folder. */
export function suggestTier(facts: FolderFacts): TierConfig {
  const { path, fileSystem, features, space, measured } = facts;
  const { kind } = fileSystem;
  const capacity = gib(space.bytesFree * (kind === "local" || kind === "memory" ? OWN_SHARE : SHARED_SHARE));
  if (kind === "memory") return { backend: "memory", capacity };
  if (kind === "local" && features.errno.direct === 0 && features.errno.fallocate === 0) {
    return { backend: "nvme", path, capacity };
  }
  const depth = enoughDepth(measured?.speeds ?? []);
  const threads = depth !== undefined && mayHang(kind) ? { threads: Math.max(THREADS_MIN, depth * 2) } : {};
  const isParallel = fileSystem.name === "lustre" || fileSystem.name === "gpfs";
  return {
    backend: isParallel ? "parallel-fs" : fileSystem.name === "nfs" ? "nfs" : "posix",
    root: path,
    capacity,
    ...threads,
    ...(mayHang(kind) && fileSystem.name !== "nfs" ? { abandonable: true } : {}), // nfs is so without a word
  };
}

function gib(bytes: number): string {
  return bytes >= GIB ? `${Math.floor(bytes / GIB)}GiB` : `${Math.max(1, Math.floor(bytes / 2 ** 20))}MiB`;
}

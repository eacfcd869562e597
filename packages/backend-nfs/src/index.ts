export { NfsBackend } from "./backend.js";
export type { NfsConfig } from "./config.js";
export { nfsManifest } from "./manifest.js";
export { judgeMount, type MountUse } from "./mount/judge.js";
export { mountCounters, type NfsMountStats, type NfsOperation, parseMountStats } from "./mount/mountstats.js";
export { isNfs, type NfsMount, nfsMountOf } from "./mount/nfs-mount.js";
export { readMountStats, readNfsMount } from "./mount/read-mount.js";

export { PosixBackend } from "./backend.js";
export type { Amount } from "./capacity/amount.js";
export type { RootCount } from "./capacity/leader.js";
export type { RootStatus } from "./capacity/root.js";
export type { PosixConfig, ResolvedPosixConfig, VllmFsNames } from "./config.js";
export type { BlockFinder, FileSystemHabits, FinderParts } from "./finder.js";
export { posixManifest } from "./manifest.js";
export type { Presence } from "./presence.js";
export { type StoredNamespace, storedNamespaces } from "./stored-namespaces.js";

export { PosixBackend } from "./backend.js";
export type { PosixConfig, ResolvedPosixConfig, VllmFsNames } from "./config.js";
export type { BlockFinder, FileSystemHabits, FinderParts } from "./finder.js";
export { type FolderNames, type Folders, foldersOf } from "./layout.js";
export { posixManifest } from "./manifest.js";
export type { Presence } from "./presence.js";
export { type StoredNamespace, storedNamespaces } from "./stored-namespaces.js";

export { PosixBackend } from "./backend.js";
export type { PosixConfig, VllmFsNames } from "./config.js";
export { type FolderNames, type Folders, foldersOf } from "./layout.js";
export { abandonable, posixManifest } from "./manifest.js";
export { type StoredNamespace, storedNamespaces } from "./stored-namespaces.js";

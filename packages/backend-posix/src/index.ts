export { PosixBackend } from "./backend.js";
export type { PosixConfig, VllmFsNames } from "./config.js";
export { posixManifest } from "./manifest.js";
export { type StoredNamespace, storedNamespaces } from "./stored-namespaces.js";

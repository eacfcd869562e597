export { PosixBackend } from "./backend.js";
export type { Amount } from "./capacity/amount.js";
export type { RootCount } from "./capacity/leader.js";
export type { RootStatus } from "./capacity/root.js";
export type { PosixConfig, VllmFsNames } from "./config.js";
export { abandonablePosixManifest, posixManifest } from "./manifest.js";
export { type StoredNamespace, storedNamespaces } from "./stored-namespaces.js";

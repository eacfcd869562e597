export { SftpBackend } from "./backend.js";
export type { SftpConfig } from "./config.js";
export { sftpManifest } from "./manifest.js";
export { storedNamespaces } from "./stored-namespaces.js";

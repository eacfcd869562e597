export { MyStorageBackend } from "./backend.js";
export type { MyStorageConfig } from "./config.js";
export { myStorageManifest } from "./manifest.js";

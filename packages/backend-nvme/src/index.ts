export { NvmeBackend } from "./backend.js";
export type { NvmeConfig } from "./config.js";
export { nvmeManifest } from "./manifest.js";

export { NvmeBackend, type NvmeConfig } from "./backend.js";
export type { NvmeDriveConfig, NvmeDriveHooks } from "./config.js";
export { type NvmeDrive, type NvmeDriveCounters, type NvmeDriveProbe, openNvmeDrive } from "./drive.js";
export { nvmeManifest } from "./manifest.js";

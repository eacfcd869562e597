export { PosixBackend } from "./backend.js";
export { type PosixConfig, type VllmFsNames } from "./config.js";
export { posixManifest } from "./manifest.js";

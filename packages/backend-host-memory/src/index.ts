export { HostMemoryBackend } from "./backend.js";
export type { HostMemoryConfig } from "./config.js";
export { hostMemoryManifest } from "./manifest.js";

export { HostArena, type HostArenaOptions } from "./arena.js";
export { HostMemoryBackend, type HostMemoryConfig } from "./backend.js";
export { hostMemoryManifest } from "./manifest.js";
export type { HeldBlocks, ReadOptions } from "./reads.js";

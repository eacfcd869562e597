export { ParallelFsBackend } from "./backend.js";
export type { ParallelFsConfig, Striping } from "./config.js";
export { type ParallelFileSystem, requireParallelFs } from "./detect.js";
export { type GpfsFacts, judgeGpfs } from "./gpfs/judge.js";
export { type LustreTarget, parseLustreDf } from "./lustre/df.js";
export { judgeLustre, type LustreFacts } from "./lustre/judge.js";
export { type Layout, layoutFor, parseLayout } from "./lustre/layout.js";
export { type TargetWatch, type TargetWatchOptions, watchTargets } from "./lustre/watch.js";
export { parallelFsManifest } from "./manifest.js";

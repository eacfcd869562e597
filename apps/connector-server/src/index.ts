export type {
  HttpAddress,
  LimitsConfig,
  LogLevel,
  MemoryTierConfig,
  PosixTierConfig,
  ResolvedConfig,
  ResolvedLimits,
  ResolvedTier,
  ServerConfig,
  Size,
  TierConfig,
} from "./config.js";
export { defaultRoot, defaultSocket } from "./config.js";
export { type ConfigProblem, checkConfigText, configSchema, readConfigFile } from "./config-file.js";
export type { CounterStatus } from "./metrics.js";
export type { BackendFactory, NamespaceShape } from "./namespaces.js";
export { type RunningServer, type ServerOptions, startServer } from "./server.js";
export type { SessionStatus } from "./session.js";
export type { NamespaceStatus, ServerStatus } from "./status.js";

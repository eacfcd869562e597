export type { HttpAddress, LimitsConfig, LogLevel, ResolvedConfig, ResolvedLimits, ServerConfig } from "./config.js";
export { defaultRoot, defaultSocket } from "./config.js";
export { type ConfigProblem, checkConfigText, configSchema, readConfigFile } from "./config-file.js";
export type { DirectEngineStatus } from "./direct/engines.js";
export type { CounterStatus } from "./metrics.js";
export type { BackendFactory, NamespaceShape } from "./namespaces.js";
export { type RunningServer, type ServerOptions, startServer } from "./server.js";
export type { SessionStatus } from "./session.js";
export type { NamespaceStatus, NamespaceTierStatus, ServerStatus, TierStatus } from "./status.js";
export type {
  MemoryTierConfig,
  NfsTierConfig,
  NvmeTierConfig,
  PosixTierConfig,
  ResolvedTier,
  S3TierConfig,
  SftpTierConfig,
  Size,
  TierConfig,
  WriteMode,
} from "./storage/tier-config.js";

export {
  type AuthorContext,
  type BackendState,
  type BlockBatch,
  OffloadBackend,
  type OpenContext,
  type RemovalListener,
  type RemovalReason,
  type Usage,
} from "./backend.js";
export { mergeResult, selectBatch } from "./batches.js";
export { type AuthorOptions, abortCode, type CallOptions, type Priority } from "./call.js";
export {
  ERROR_CODES,
  type ErrorCode,
  type ErrorStatus,
  errorCodeOf,
  errorNumber,
  KvferryError,
  type KvferryErrorOptions,
  toKvferryError,
} from "./errors.js";
export {
  GROUP_BYTES,
  KEY_BYTES_MAX,
  KEY_BYTES_MIN,
  type KeyBatch,
  keyAt,
  keyGroup,
  keyHex,
  packedKeys,
  packKeys,
  selectKeys,
} from "./keys.js";
export { Layer } from "./layers/layer.js";
export {
  CAPABILITY_NAMES,
  type Capabilities,
  defineManifest,
  type Limits,
  type Manifest,
  type ManifestInput,
} from "./manifest.js";
export { MemoryBackend } from "./memory-backend/backend.js";
export {
  createMemoryStorage,
  type MemoryBlock,
  type MemoryConfig,
  type MemoryStorage,
} from "./memory-backend/config.js";
export { memoryManifest } from "./memory-backend/manifest.js";
export {
  canonicalJson,
  createNamespace,
  type Namespace,
  type NamespaceFields,
  type NamespaceGroup,
  type NamespaceParallel,
} from "./namespace.js";
export {
  type BatchResult,
  countOutcome,
  LookupState,
  Outcome,
  outcomeCode,
  outcomeName,
  setOutcome,
  uniformResult,
} from "./outcomes.js";
export { createMemoryRegion, type Region, slotBytes } from "./region.js";
export { type Clock, type Logger, silentLogger, systemClock } from "./runtime.js";
export type { AuthorScanOptions, ScanEntry, ScanOptions, ScanPage } from "./scan.js";

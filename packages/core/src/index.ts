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
export { Background, untilAborted } from "./background.js";
export { mergeResult, selectBatch } from "./batches.js";
export {
  BLOCK_FORMAT_VERSION,
  decodeFooter,
  encodeFooter,
  FOOTER_BYTES,
  type Footer,
  type FooterFields,
  paddedBytes,
  storedBlockBytes,
  tailBytes,
} from "./block-format.js";
export {
  CORRUPT_VERDICT,
  type ExpectedBlock,
  judgeBlock,
  MISS_VERDICT,
  type Verdict,
  verifyBlock,
} from "./block-verdict.js";
export { type AuthorOptions, abortCode, type CallLimit, type CallOptions, callLimit, type Priority } from "./call.js";
export { type Checksum, crc32c } from "./crc32c.js";
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
export { DEFAULT_POLICY, POLICIES, type PolicyName, policyNamed } from "./eviction/policies.js";
export type { BlockUse, EvictionPolicy, PolicyFactory, PolicyOptions } from "./eviction/policy.js";
export { KeySet } from "./key-set.js";
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
export {
  type CircuitBreakerConfig,
  CircuitBreakerLayer,
  type CircuitChange,
  type CircuitState,
} from "./layers/circuit-breaker.js";
export { type DeadlineConfig, DeadlineLayer } from "./layers/deadline.js";
export { type IntegrityConfig, IntegrityLayer } from "./layers/integrity.js";
export { Layer } from "./layers/layer.js";
export { type LimitConfig, LimitLayer } from "./layers/limit.js";
export {
  BACKEND_METRICS,
  type MetricDefinition,
  type MetricLabels,
  MetricsLayer,
  type MetricsSink,
} from "./layers/metrics.js";
export { type RetryConfig, RetryLayer } from "./layers/retry.js";
export { StagingPool } from "./layers/staging-pool.js";
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
  formatNamespaceRecord,
  NAMESPACE_RECORD_BYTES_MAX,
  type NamespaceRecord,
  parseNamespaceRecord,
} from "./namespace-record.js";
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
export { type BlockTable, NO_ROW } from "./prefix-index/block-table.js";
export {
  type PersistenceStatus,
  PersistentIndex,
  type PersistentIndexOptions,
} from "./prefix-index/persistence/persistent-index.js";
export type { RecoveryReport } from "./prefix-index/persistence/recovery.js";
export { type BlockFacts, PrefixIndex, type PrefixIndexOptions } from "./prefix-index/prefix-index.js";
export { PriorityGate } from "./priority-gate.js";
export { type FileSystemKind, type FileSystemName, fileSystemOf, mayHang } from "./probe/file-systems.js";
export { type Finding, type Severity, worstSeverity } from "./probe/findings.js";
export type { BlockSpeed, FileFeatures, FolderFacts, Visibility } from "./probe/folder-facts.js";
export { type Mount, mountOf, mountOption, parseMounts, readMounts } from "./probe/mounts.js";
export { createMemoryRegion, type Region, slotBytes } from "./region.js";
export { type Clock, type Logger, silentLogger, systemClock } from "./runtime.js";
export type { AuthorScanOptions, ScanEntry, ScanOptions, ScanPage } from "./scan.js";
export { type Amount, NOTHING as NO_AMOUNT, plus as plusAmount } from "./shared-capacity/amount.js";
export type { BlockFolder, BlockLeaf, BlockRoot, FolderBlocks } from "./shared-capacity/catalog.js";
export { EvictedBlocks, type EvictedBlocksOptions, type KnownBlocks } from "./shared-capacity/evicted-blocks.js";
export type { CapacityFiles } from "./shared-capacity/files.js";
export { LateStores, type LateStoresOptions } from "./shared-capacity/late-stores.js";
export type { LeaderIndexes, RootCount } from "./shared-capacity/leader.js";
export { RecordKind } from "./shared-capacity/log.js";
export { Loop } from "./shared-capacity/loop.js";
export { type CapacityObjects, ObjectFiles } from "./shared-capacity/object-files.js";
export { type CapacityPace, SWIFT_PACE, THRIFTY_PACE } from "./shared-capacity/pace.js";
export { type OpenRoot, RootRegistry } from "./shared-capacity/root-registry.js";
export { KEPT_FREE_SHARE } from "./shared-capacity/share.js";
export { type FolderUser, type RootStatus, SharedRoot, type SharedRootOptions } from "./shared-capacity/shared-root.js";
export { BlockLedger, type BlockLedgerOptions } from "./tiers/block-ledger.js";
export { type CapacityConfig, CapacityLayer } from "./tiers/capacity-layer.js";
export {
  type EvictingListener,
  EvictingListeners,
  type EvictionSource,
  type LeavingBlocks,
} from "./tiers/evictions.js";
export { TIER_METRICS } from "./tiers/metrics.js";
export { MISS_REASONS, type MissReason, MissReasons } from "./tiers/miss-reasons.js";
export type { StagingOptions, TieredStoreOptions, TierOptions } from "./tiers/options.js";
export { TieredStore, type TierStatus } from "./tiers/tiered-store.js";
export { newWriterName, writerHasEnded } from "./writer-name.js";

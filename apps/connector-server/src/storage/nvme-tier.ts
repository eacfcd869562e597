import { NvmeBackend, openNvmeDrive } from "@kvferry/backend-nvme";
import { type Logger, storedBlockBytes } from "@kvferry/core";
import { folderProbe } from "./folder.js";
import type { ResolvedNvmeTier } from "./tier-config.js";
import type { TierRuntime } from "./tier-runtime.js";

/** One drive for all namespaces.
 * @throws KvferryError, as `openNvmeDrive`. */
export async function startNvmeTier(tier: ResolvedNvmeTier, logger: Logger): Promise<TierRuntime> {
  const { backend, name, write: _write, deadlineMs: _deadlineMs, ...config } = tier;
  const drive = await openNvmeDrive(config, { logger });
  return {
    name,
    backend,
    place: config.path,
    capacityBytes: config.capacityBytes,
    createBackend: () => new NvmeBackend({ drive }),
    async namespaces() {
      return (await drive.storedNamespaces()).map((record) => ({ ...record, vllmFs: undefined }));
    },
    roomBlocks(blockBytes) {
      // a segment loses a block's room to headers and to what does not fit, and one is kept free
      const inSegment = Math.max(1, Math.floor(drive.probe.segmentBytes / storedBlockBytes(blockBytes)) - 1);
      return Math.max(0, drive.counters().segmentsFree - 1) * inSegment;
    },
    queue: () => undefined,
    counters() {
      const counted = drive.counters();
      return {
        nvme_written_bytes_total: counted.bytesWrittenEver,
        nvme_written_by_stores_bytes_total: counted.bytesWrittenByStores,
        nvme_written_by_reinsertion_bytes_total: counted.bytesWrittenByReinsertion,
        nvme_written_as_metadata_bytes_total: counted.bytesWrittenAsMetadata,
        nvme_evicted_segments_total: counted.segmentsEvicted,
        nvme_evicted_blocks_total: counted.blocksEvicted,
        nvme_reinserted_blocks_total: counted.blocksReinserted,
        nvme_corrupt_blocks_total: counted.blocksCorrupt,
        nvme_dropped_by_wear_budget_blocks_total: counted.blocksDroppedByWearBudget,
      };
    },
    gauges() {
      const { writeAmplification, bytesWrittenLast24Hours, wearBudgetLeftBytes, indexBytes } = drive.counters();
      return {
        nvme_write_amplification_ratio: writeAmplification,
        nvme_written_last_day_bytes: bytesWrittenLast24Hours,
        ...(Number.isFinite(wearBudgetLeftBytes) ? { nvme_wear_budget_left_bytes: wearBudgetLeftBytes } : {}),
        nvme_index_bytes: indexBytes,
      };
    },
    problem: folderProbe(config.path),
    close: () => drive.close(),
  };
}

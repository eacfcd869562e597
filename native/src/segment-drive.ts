/** `SegmentDrive` over the addon: what is added here is cancelling by AbortSignal. */
import { abortedResult, cancellable } from "./cancel.js";
import type { Addon, AddonDrive } from "./load.js";
import type {
  BlockResult,
  FileEngineStats,
  RecoveredDrive,
  SegmentAppend,
  SegmentDrive,
  SegmentDriveCounters,
  SegmentDriveOptions,
  SegmentLife,
  SegmentRead,
} from "./types.js";

const QUEUE_DEPTH = 64;

class NativeSegmentDrive implements SegmentDrive {
  readonly #drive: AddonDrive;
  readonly engine: "io_uring" | "threads";
  readonly engineReason: string | undefined;
  readonly direct: boolean;
  readonly preallocated: boolean;
  readonly segmentBytes: number;
  readonly segments: number;

  constructor(drive: AddonDrive, options: SegmentDriveOptions) {
    this.#drive = drive;
    this.engine = drive.engine;
    this.engineReason = drive.engineReason;
    this.direct = drive.direct;
    this.preallocated = drive.preallocated;
    this.segmentBytes = options.segmentBytes;
    this.segments = options.segments;
  }

  async begin(life: SegmentLife): Promise<void> {
    await this.#drive.begin(life.segment, life.epoch, life.sequence);
  }

  async append(append: SegmentAppend): Promise<BlockResult & { readonly checksums: Uint32Array }> {
    const { signal } = append;
    if (signal?.aborted) {
      return { ...abortedResult(append.slots.length, signal), checksums: new Uint32Array(append.slots.length) };
    }
    return cancellable(this.#drive, signal, (ticket) => this.#drive.append(append, ticket));
  }

  async read(read: SegmentRead): Promise<BlockResult> {
    if (read.signal?.aborted) return abortedResult(read.slots.length, read.signal);
    return cancellable(this.#drive, read.signal, (ticket) => this.#drive.read(read, ticket));
  }

  async seal(life: SegmentLife): Promise<void> {
    await this.#drive.seal(life.segment, life.epoch, life.sequence);
  }

  async recover(): Promise<RecoveredDrive> {
    return this.#drive.recover();
  }

  async discard(segment: number): Promise<void> {
    await this.#drive.discard(segment);
  }

  counters(): SegmentDriveCounters {
    return this.#drive.counters();
  }

  stats(): FileEngineStats {
    return this.#drive.stats();
  }

  async close(): Promise<void> {
    await this.#drive.close();
  }
}

export async function openDrive(addon: Addon, options: SegmentDriveOptions): Promise<SegmentDrive> {
  const drive = await addon.openSegmentDrive({ ...options, queueDepth: options.queueDepth ?? QUEUE_DEPTH });
  return new NativeSegmentDrive(drive, options);
}

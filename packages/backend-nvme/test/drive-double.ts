import { crc32c, Outcome, uniformResult } from "@kvferry/core";
import {
  type BlockResult,
  driveOffset4k,
  type FileEngineStats,
  payloadOffset,
  type RecoveredDrive,
  recordBytes,
  SEGMENT_HEADER_BYTES,
  type SegmentAppend,
  type SegmentDrive,
  type SegmentDriveCounters,
  type SegmentLife,
  type SegmentRead,
  segmentOf,
  summaryBytes,
} from "@kvferry/native";

interface Life extends SegmentLife {
  sealed: boolean;
  nextOffset: number;
  records: SegmentAppend[];
  checksums: Uint32Array[];
}

/** A segment drive in memory that does what a drive of iron cannot be made to do when a test wants it: writes that fail, reads that hang, a
 * drive that takes no more segments. It refuses what the real one forbids: records that overlap, reads of a life that is over. */
export class DriveDouble implements SegmentDrive {
  readonly engine = "threads";
  readonly engineReason: string | undefined = "a double";
  readonly direct = false;
  readonly preallocated = true;
  readonly segmentBytes: number;
  readonly segments: number;
  readonly memory: Uint8Array;
  readonly lives: Map<number, Life> = new Map();
  /** Appends that end as FAILED(IO) from now on; how many. */
  failAppends = 0;
  /** begin() rejects with this code while it is set. */
  beginFails: string | undefined;
  discardFails = false;
  /** Reads wait for it. */
  readsHang: Promise<void> | undefined;
  /** Called at each read, which waits for what it returns. */
  onRead: (() => Promise<void>) | undefined;
  #failCopiesOf: string | undefined;
  #written = 0;

  constructor(segmentBytes: number, segments: number) {
    this.segmentBytes = segmentBytes;
    this.segments = segments;
    this.memory = new Uint8Array(driveOffset4k(segments, 0, segmentBytes) * 4096);
  }

  async begin(life: SegmentLife): Promise<void> {
    await turn();
    if (this.beginFails !== undefined) throw Object.assign(new Error("no"), { code: this.beginFails });
    this.#written += SEGMENT_HEADER_BYTES;
    this.lives.set(life.segment, {
      ...life,
      sealed: false,
      nextOffset: SEGMENT_HEADER_BYTES,
      records: [],
      checksums: [],
    });
  }

  async append(append: SegmentAppend): Promise<BlockResult & { readonly checksums: Uint32Array }> {
    const { segment, offset, keys, keyBytes, blockBytes, memory, rowBytes } = append;
    const slots = append.slots.slice();
    const life = this.lives.get(segment);
    const count = slots.length;
    const end = offset + recordBytes(count, blockBytes, keyBytes);
    if (life === undefined || life.sealed || life.epoch !== append.epoch) throw new Error("the segment is not open");
    if (end > this.segmentBytes || offset < SEGMENT_HEADER_BYTES) throw new Error("out of bounds");
    if (offset < life.nextOffset) throw new Error("records must come by rising offset");
    life.nextOffset = end;
    const fails = this.failAppends > 0 || hexOf(keys).includes(this.#failCopiesOf ?? "none");
    if (this.failAppends > 0) this.failAppends--;
    await turn();
    this.#written += recordBytes(count, blockBytes, keyBytes);
    const checksums = new Uint32Array(count);
    if (fails) return { ...uniformResult(count, Outcome.FAILED, "IO"), checksums };
    for (let i = 0; i < count; i++) {
      const slot = slots[i] as number;
      const payload = memory.subarray(slot * rowBytes, slot * rowBytes + blockBytes);
      const at = driveOffset4k(segment, offset + payloadOffset(i, count, blockBytes, keyBytes), this.segmentBytes);
      this.memory.set(payload, at * 4096);
      checksums[i] = checksumOf(append, keys.subarray(i * keyBytes, (i + 1) * keyBytes), payload);
    }
    life.records.push({ ...append, slots, keys: keys.slice(), namespaceDigest: append.namespaceDigest.slice() });
    life.checksums.push(checksums);
    return { ...uniformResult(count, Outcome.STORED), checksums };
  }

  /** From now on no record with this key can be written. */
  failCopiesOf(key: Uint8Array): void {
    this.#failCopiesOf = hexOf(key);
  }

  /** Records of a namespace that hold a key, or any, in the order of time. */
  recordsOf(namespaceDigest: Uint8Array, key: Uint8Array | undefined): SegmentAppend[] {
    const all = [...this.lives.values()].flatMap(({ records }) => records);
    const wanted = all.filter((record) => {
      if (hexOf(record.namespaceDigest) !== hexOf(namespaceDigest)) return false;
      return key === undefined || hexOf(record.keys).includes(hexOf(key));
    });
    return wanted.sort((a, b) => a.sequence - b.sequence);
  }

  async read(read: SegmentRead): Promise<BlockResult> {
    const { offsets4k, checksums, keys, keyBytes, blockBytes, memory, rowBytes, slots } = read;
    await turn();
    if (this.readsHang !== undefined) await this.readsHang;
    if (this.onRead !== undefined) await this.onRead();
    const result = uniformResult(slots.length, Outcome.LOADED);
    for (let i = 0; i < slots.length; i++) {
      const at = (offsets4k[i] as number) * 4096;
      if (!this.lives.has(segmentOf(offsets4k[i] as number, this.segmentBytes)))
        throw new Error("read of an ended life");
      const payload = this.memory.subarray(at, at + blockBytes);
      if (checksumOf(read, keys.subarray(i * keyBytes, (i + 1) * keyBytes), payload) !== checksums[i]) {
        result.outcomes[i] = Outcome.CORRUPT;
        result.codes[i] = 20;
      } else memory.set(payload, (slots[i] as number) * rowBytes);
    }
    return result;
  }

  async seal({ segment, epoch }: SegmentLife): Promise<void> {
    await turn();
    const life = this.lives.get(segment);
    if (life === undefined || life.epoch !== epoch || life.sealed) throw new Error("the segment is not open");
    const blocks = life.records.reduce((sum, { slots }) => sum + slots.length, 0);
    const keyBytes = life.records.reduce((sum, each) => sum + each.slots.length * each.keyBytes, 0);
    const last = life.records.at(-1);
    const used = last
      ? Math.max(...life.records.map((r) => r.offset + recordBytes(r.slots.length, r.blockBytes, r.keyBytes)))
      : 4096;
    const summary = summaryBytes(life.records.length, blocks, keyBytes);
    if (used + summary > this.segmentBytes) throw new Error("the summary does not fit");
    this.#written += summary;
    life.sealed = true;
  }

  async recover(): Promise<RecoveredDrive> {
    const none = new Float64Array(0);
    return {
      segments: {
        index: new Uint32Array(0),
        epoch: none,
        sequence: none,
        usedBytes: none,
        sealed: new Uint8Array(0),
        records: new Uint32Array(0),
        blocks: new Uint32Array(0),
        keyBytes: none,
      },
      namespaces: [],
      damagedSegments: 0,
      damagedRecords: 0,
    };
  }

  async discard(segment: number): Promise<void> {
    this.lives.delete(segment);
    this.#written += SEGMENT_HEADER_BYTES;
    this.memory.fill(
      0xdd,
      driveOffset4k(segment, 0, this.segmentBytes) * 4096,
      driveOffset4k(segment + 1, 0, this.segmentBytes) * 4096,
    );
    await turn();
    if (this.discardFails) throw Object.assign(new Error("no"), { code: "IO" });
  }

  counters(): SegmentDriveCounters {
    const zero = {
      bytesRead: 0,
      bytesStored: 0,
      bytesLoaded: 0,
      corruptBlocks: 0,
      bytesDiscarded: 0,
      registeredBytes: 0,
    };
    return { bytesWritten: this.#written, ...zero };
  }

  stats(): FileEngineStats {
    return { threads: 0, queuedLoads: 0, queuedStores: 0, running: 0, stuckThreads: 0 };
  }

  async close(): Promise<void> {
    await turn();
  }
}

function checksumOf(
  { namespaceDigest }: { namespaceDigest: Uint8Array },
  key: Uint8Array,
  payload: Uint8Array,
): number {
  return crc32c(Buffer.concat([namespaceDigest, key, payload]));
}

function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

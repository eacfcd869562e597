import { open, readFile } from "node:fs/promises";

// Where blocks lie, by docs/nvme-format.md and not by the code under test.

const PAGE_BYTES = 4096;
const DRIVE_HEADER_BYTES = 1 << 20;
const RECORD_FIXED_BYTES = 128;

/** A record as its header tells it; places are bytes from the start of the file. */
export interface DiskRecord {
  readonly at: number;
  readonly bytes: number;
  readonly segment: number;
  readonly sequence: number;
  readonly digestHex: string;
  readonly blockBytes: number;
  readonly keys: readonly string[];
  /** Of each block. */
  readonly payloads: readonly number[];
}

/** A drive's file and the lives of its segments. */
export class Disk {
  readonly bytes: Buffer;
  readonly segmentBytes: number;
  readonly segments: number;

  private constructor(bytes: Buffer) {
    this.bytes = bytes;
    if (bytes.toString("latin1", 0, 8) !== "KVFDRIVE") throw new Error("this is no drive");
    this.segmentBytes = Number(bytes.readBigUInt64LE(32));
    this.segments = Number(bytes.readBigUInt64LE(40));
  }

  static async read(path: string): Promise<Disk> {
    return new Disk(await readFile(path));
  }

  startOf(segment: number): number {
    return DRIVE_HEADER_BYTES + segment * this.segmentBytes;
  }

  /** Records of the segments' present lives, in the order of time. */
  records(): DiskRecord[] {
    const found: DiskRecord[] = [];
    for (let segment = 0; segment < this.segments; segment++) found.push(...this.#recordsOf(segment));
    return found.sort((a, b) => a.sequence - b.sequence);
  }

  /** The newest record that has a key, and where its payload begins. */
  find(digestHex: string, keyHex: string): { readonly record: DiskRecord; readonly payload: number } {
    for (const record of this.records().reverse()) {
      const index = record.digestHex === digestHex ? record.keys.indexOf(keyHex) : -1;
      if (index >= 0) return { record, payload: record.payloads[index] as number };
    }
    throw new Error(`no record has the key ${keyHex}`);
  }

  #recordsOf(segment: number): DiskRecord[] {
    const start = this.startOf(segment);
    if (this.bytes.toString("latin1", start, start + 8) !== "KVFSEGMT") return [];
    const epoch = this.bytes.readBigUInt64LE(start + 32);
    const found: DiskRecord[] = [];
    for (let at = start + PAGE_BYTES; at < start + this.segmentBytes; ) {
      const record = this.#recordAt(at, segment, epoch);
      if (record !== undefined) found.push(record);
      at += record?.bytes ?? PAGE_BYTES;
    }
    return found;
  }

  #recordAt(at: number, segment: number, epoch: bigint): DiskRecord | undefined {
    const { bytes } = this;
    if (bytes.toString("latin1", at, at + 8) !== "KVFRECRD" || bytes.readBigUInt64LE(at + 32) !== epoch)
      return undefined;
    if (bytes.readUInt32LE(at + 48) !== segment) return undefined;
    if (bytes.readUInt32LE(at + 52) * PAGE_BYTES !== at - this.startOf(segment)) return undefined;
    const headerBytes = bytes.readUInt32LE(at + 12);
    const count = bytes.readUInt32LE(at + 56);
    const keyBytes = bytes.readUInt32LE(at + 60);
    const blockBytes = Number(bytes.readBigUInt64LE(at + 64));
    const padded = Math.ceil(blockBytes / PAGE_BYTES) * PAGE_BYTES;
    const keysAt = at + RECORD_FIXED_BYTES + count * 4;
    return {
      at,
      bytes: headerBytes + count * padded,
      segment,
      sequence: Number(bytes.readBigUInt64LE(at + 40)),
      digestHex: bytes.toString("hex", at + 80, at + 112),
      blockBytes,
      keys: Array.from({ length: count }, (_, i) =>
        bytes.toString("hex", keysAt + i * keyBytes, keysAt + (i + 1) * keyBytes),
      ),
      payloads: Array.from({ length: count }, (_, i) => at + headerBytes + i * padded),
    };
  }
}

/** Changes bytes of a file. */
export async function patch(path: string, at: number, change: (bytes: Buffer) => void, length = 1): Promise<void> {
  const file = await open(path, "r+");
  try {
    const bytes = Buffer.alloc(length);
    const { bytesRead } = await file.read(bytes, 0, length, at);
    change(bytes.subarray(0, bytesRead));
    await file.write(bytes, 0, bytesRead, at);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Inverts the lowest bit of a byte. */
export function flipByte(path: string, at: number): Promise<void> {
  return patch(path, at, (bytes) => {
    bytes[0] = (bytes[0] as number) ^ 1;
  });
}

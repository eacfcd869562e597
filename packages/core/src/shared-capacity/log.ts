import { crc32c } from "../crc32c.js";
import { KEY_BYTES_MAX, KEY_BYTES_MIN, type KeyBatch } from "../keys.js";
import type { LogPosition } from "./documents.js";
import type { CapacityFiles } from "./files.js";

/** What a record says of its keys. */
export const RecordKind = { STORED: 1, USED: 2, OBSERVED: 3, GONE: 4, EVICTED: 5 } as const;
export type RecordKind = (typeof RecordKind)[keyof typeof RecordKind];

/** Keys of one folder of blocks, in the order of their request. */
export interface LogRecord {
  readonly kind: RecordKind;
  /** Name of the folder of blocks: compared with names of folders that were found, never made into a path. */
  readonly folder: string;
  readonly keys: KeyBatch;
  /** Bytes of each file; 0 where it does not matter. */
  readonly fileBytes: number;
  /** Wall clock, ms. */
  readonly atMs: number;
}

/** A log goes on in a new file after so many bytes. */
export const LOG_FILE_BYTES: number = 1 << 20;
/** Files of a log that are kept; who is further behind has lost its place. */
const LOG_FILES_MAX = 8;
/** More keys become several records. */
const RECORD_KEYS_MAX = 4096;
const NAME_BYTES_MAX = 255;

const HEADER_BYTES = 40;
const MAGIC = 0x314c564b; // "KVL1"
const RECORD_BYTES_MAX = HEADER_BYTES + NAME_BYTES_MAX + RECORD_KEYS_MAX * KEY_BYTES_MAX;
const PIECE_BYTES = 2 * RECORD_BYTES_MAX;

export function encodeRecords(record: LogRecord): Uint8Array {
  const { keys } = record;
  const pieces: Uint8Array[] = [];
  for (let from = 0; from < keys.count; from += RECORD_KEYS_MAX) {
    const count = Math.min(RECORD_KEYS_MAX, keys.count - from);
    const bytes = keys.bytes.subarray(from * keys.stride, (from + count) * keys.stride);
    pieces.push(encodeOne({ ...record, keys: { bytes, stride: keys.stride, count } }));
  }
  return pieces.length === 1 ? (pieces[0] as Uint8Array) : Buffer.concat(pieces);
}

function encodeOne({ kind, folder, keys, fileBytes, atMs }: LogRecord): Uint8Array {
  const name = Buffer.from(folder);
  const record = Buffer.alloc(HEADER_BYTES + name.length + keys.bytes.length);
  record.writeUInt32LE(MAGIC, 0);
  record.writeUInt32LE(record.length, 8);
  record.writeUInt8(kind, 12);
  record.writeUInt8(keys.stride, 13);
  record.writeUInt16LE(name.length, 14);
  record.writeUInt32LE(keys.count, 16);
  record.writeDoubleLE(atMs, 24);
  record.writeDoubleLE(fileBytes, 32);
  name.copy(record, HEADER_BYTES);
  record.set(keys.bytes, HEADER_BYTES + name.length);
  record.writeUInt32LE(crc32c(record.subarray(8)), 4);
  return record;
}

/** Whole records from the start of `bytes`, how many bytes they take, and whether what follows is no record. Less than a record at the end is not damage:
 * it may still be on its way. */
export function decodeRecords(bytes: Uint8Array): { records: LogRecord[]; length: number; damaged: boolean } {
  const all = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const records: LogRecord[] = [];
  let at = 0;
  while (all.length - at >= HEADER_BYTES) {
    const length = all.readUInt32LE(at + 8);
    if (all.readUInt32LE(at) !== MAGIC || length < HEADER_BYTES || length > RECORD_BYTES_MAX) {
      return { records, length: at, damaged: true };
    }
    if (at + length > all.length) break;
    const record = decodeOne(all.subarray(at, at + length));
    if (record === undefined) return { records, length: at, damaged: true };
    records.push(record);
    at += length;
  }
  return { records, length: at, damaged: false };
}

function decodeOne(record: Buffer): LogRecord | undefined {
  if (record.readUInt32LE(4) !== crc32c(record.subarray(8))) return undefined;
  const [kind, stride, nameBytes] = [record.readUInt8(12), record.readUInt8(13), record.readUInt16LE(14)];
  const [count, atMs, fileBytes] = [record.readUInt32LE(16), record.readDoubleLE(24), record.readDoubleLE(32)];
  const keysAt = HEADER_BYTES + nameBytes;
  if (kind < RecordKind.STORED || kind > RecordKind.EVICTED || stride < KEY_BYTES_MIN || stride > KEY_BYTES_MAX) return;
  if (count < 1 || count > RECORD_KEYS_MAX || record.length !== keysAt + count * stride) return undefined;
  if (!(atMs >= 0 && atMs <= Number.MAX_SAFE_INTEGER && Number.isSafeInteger(fileBytes) && fileBytes >= 0)) return;
  const bytes = Uint8Array.from(record.subarray(keysAt)); // words of an index want it aligned
  const folder = record.subarray(HEADER_BYTES, keysAt).toString("utf8");
  return { kind: kind as RecordKind, folder, keys: { bytes, stride, count }, fileBytes, atMs };
}

/** Appends to a log of one's own. Not for two calls at once. */
export class LogWriter {
  readonly #files: CapacityFiles;
  readonly #nameOf: (file: number) => string;
  #at: LogPosition = { file: 0, offset: 0 };
  #oldest = 0;

  constructor(files: CapacityFiles, nameOf: (file: number) => string) {
    this.#files = files;
    this.#nameOf = nameOf;
  }

  /** All before it has been written. */
  get position(): LogPosition {
    return this.#at;
  }

  /** Appends whole records; what fails half-way is overwritten by the next call. */
  async append(bytes: Uint8Array): Promise<void> {
    const at = this.#at.offset >= LOG_FILE_BYTES ? { file: this.#at.file + 1, offset: 0 } : this.#at;
    await this.#files.write(this.#nameOf(at.file), at.offset, bytes);
    this.#at = { file: at.file, offset: at.offset + bytes.length };
    await this.discard(this.#at.file - LOG_FILES_MAX + 1);
  }

  /** Removes the files before this one. */
  async discard(file: number): Promise<void> {
    for (; this.#oldest < Math.min(file, this.#at.file); this.#oldest++) {
      await this.#files.remove(this.#nameOf(this.#oldest));
    }
  }
}

/** What was read, and whether something was missing or no record. */
export interface LogPart {
  readonly records: readonly LogRecord[];
  readonly position: LogPosition;
  /** There is more to read. */
  readonly more: boolean;
  readonly damaged: boolean;
}

/**
 * Reads on from a position, a few megabytes at most. With `end` (what the writer says that it has written) it reads up to there and no further, and what is
 * damaged is skipped; without, up to the last whole record.
 */
export async function readLog(
  files: CapacityFiles,
  nameOf: (file: number) => string,
  from: LogPosition,
  end?: LogPosition,
): Promise<LogPart> {
  const skip: LogPart = { records: [], position: end ?? from, more: false, damaged: true };
  if (end !== undefined) {
    if (end.file === from.file && end.offset === from.offset) return { ...skip, damaged: false };
    if (end.file < from.file || (end.file === from.file && end.offset < from.offset)) return skip; // begun anew
    if (end.file - from.file > LOG_FILES_MAX) return skip;
  }
  const inLastFile = end === undefined || end.file === from.file;
  const bytesMax = end !== undefined && inLastFile ? Math.min(PIECE_BYTES, end.offset - from.offset) : PIECE_BYTES;
  const bytes = await files.read(nameOf(from.file), from.offset, bytesMax);
  if (bytes === undefined) return skip;
  const { records, length, damaged } = decodeRecords(bytes);
  const position = { file: from.file, offset: from.offset + length };
  if (damaged) return { ...skip, records };
  if (end === undefined) return { records, position, more: length > 0, damaged: false };
  if (inLastFile) {
    if (length === 0) return { ...skip, records }; // the writer says that there is more
    return { records, position, more: position.offset < end.offset, damaged: false };
  }
  if (length > 0) return { records, position, more: true, damaged: false };
  if (bytes.length > 0) return { ...skip, records }; // half a record at the end of a file that goes on elsewhere
  return { records, position: { file: from.file + 1, offset: 0 }, more: true, damaged: false };
}

import { type Checksum, crc32c } from "./crc32c.js";
import { KvferryError } from "./errors.js";
import { KEY_BYTES_MAX, KEY_BYTES_MIN } from "./keys.js";

/** Bytes of the footer, and the unit to which payloads are padded. docs/block-format.md is the authority for all of this. */
export const FOOTER_BYTES = 4096;
export const BLOCK_FORMAT_VERSION = 1;

export const CODEC_PLAIN = 0;
export const CHECKSUM_CRC32C = 1;
const DIGEST_BYTES = 32;
const WRITER_BYTES = 64;
/** "KVFERRY", 1 */
const MAGIC: readonly number[] = [0x4b, 0x56, 0x46, 0x45, 0x52, 0x52, 0x59, 0x01];
const AT = {
  formatVersion: 8,
  footerBytes: 12,
  payloadBytes: 16,
  codec: 24,
  checksumKind: 26,
  keyBytes: 28,
  payloadChecksum: 32,
  storedAtMs: 40,
  namespaceDigest: 48,
  key: 80,
  writer: 208,
  footerChecksum: 4092,
} as const;

/** What a writer says about a block. */
export interface FooterFields {
  readonly payloadBytes: number;
  readonly payloadChecksum: number;
  /** Writer's clock, ms since 1970. */
  readonly storedAtMs: number;
  /** 32 bytes. */
  readonly namespaceDigest: Uint8Array;
  /** 5 to 128 bytes. */
  readonly key: Uint8Array;
  /** For people; cut after 64 bytes of UTF-8. */
  readonly writer: string;
}

/** A footer as it was read. */
export interface Footer extends FooterFields {
  readonly formatVersion: number;
  readonly codec: number;
  readonly checksumKind: number;
}

/** A payload's bytes with the zeros after it: where its footer begins. */
export function paddedBytes(blockBytes: number): number {
  return Math.ceil(blockBytes / FOOTER_BYTES) * FOOTER_BYTES;
}

/** Bytes of a stored block after its payload: padding and footer. */
export function tailBytes(blockBytes: number): number {
  return storedBlockBytes(blockBytes) - blockBytes;
}

/** Bytes of a block on storage: payload, padding, footer. */
export function storedBlockBytes(blockBytes: number): number {
  return paddedBytes(blockBytes) + FOOTER_BYTES;
}

/** Writes the 4,096 bytes of a footer to the start of `target`.
 * @throws KvferryError INVALID_ARGUMENT if the target is short, or the digest or the key has a wrong length. */
export function encodeFooter(target: Uint8Array, fields: FooterFields, checksum: Checksum = crc32c): void {
  const { key, namespaceDigest } = fields;
  if (target.length < FOOTER_BYTES)
    throw misuse(`the target has ${target.length} bytes, a footer needs ${FOOTER_BYTES}`);
  if (namespaceDigest.length !== DIGEST_BYTES) throw misuse(`a digest of ${namespaceDigest.length} bytes`);
  if (key.length < KEY_BYTES_MIN || key.length > KEY_BYTES_MAX) throw misuse(`a key of ${key.length} bytes`);
  const bytes = target.subarray(0, FOOTER_BYTES).fill(0);
  const view = viewOf(bytes);
  bytes.set(MAGIC);
  view.setUint32(AT.formatVersion, BLOCK_FORMAT_VERSION, true);
  view.setUint32(AT.footerBytes, FOOTER_BYTES, true);
  setUint64(view, AT.payloadBytes, fields.payloadBytes);
  view.setUint16(AT.codec, CODEC_PLAIN, true);
  view.setUint16(AT.checksumKind, CHECKSUM_CRC32C, true);
  view.setUint32(AT.keyBytes, key.length, true);
  setUint64(view, AT.payloadChecksum, fields.payloadChecksum);
  setUint64(view, AT.storedAtMs, fields.storedAtMs);
  bytes.set(namespaceDigest, AT.namespaceDigest);
  bytes.set(key, AT.key);
  new TextEncoder().encodeInto(fields.writer, bytes.subarray(AT.writer, AT.writer + WRITER_BYTES));
  view.setUint32(AT.footerChecksum, checksum(bytes.subarray(0, AT.footerChecksum)), true);
}

/** Reads a footer. Undefined where the bytes are none: too few, another magic, or a footer checksum that does not fit. */
export function decodeFooter(source: Uint8Array, checksum: Checksum = crc32c): Footer | undefined {
  if (source.length < FOOTER_BYTES) return undefined;
  const bytes = source.subarray(0, FOOTER_BYTES);
  const view = viewOf(bytes);
  if (!MAGIC.every((byte, i) => bytes[i] === byte)) return undefined;
  if (view.getUint32(AT.footerChecksum, true) !== checksum(bytes.subarray(0, AT.footerChecksum))) return undefined;
  const keyBytes = Math.min(view.getUint32(AT.keyBytes, true), KEY_BYTES_MAX);
  const writer = bytes.subarray(AT.writer, AT.writer + WRITER_BYTES);
  const writerEnd = writer.indexOf(0);
  return {
    formatVersion: view.getUint32(AT.formatVersion, true),
    payloadBytes: getUint64(view, AT.payloadBytes),
    codec: view.getUint16(AT.codec, true),
    checksumKind: view.getUint16(AT.checksumKind, true),
    payloadChecksum: getUint64(view, AT.payloadChecksum),
    storedAtMs: getUint64(view, AT.storedAtMs),
    namespaceDigest: bytes.slice(AT.namespaceDigest, AT.namespaceDigest + DIGEST_BYTES),
    key: bytes.slice(AT.key, AT.key + keyBytes),
    writer: new TextDecoder().decode(writerEnd < 0 ? writer : writer.subarray(0, writerEnd)),
  };
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function setUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

function getUint64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
}

function misuse(reason: string): KvferryError {
  return new KvferryError("INVALID_ARGUMENT", `block format: ${reason}`, { operation: "encodeFooter" });
}

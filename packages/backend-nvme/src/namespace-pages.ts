import { deflateRawSync, inflateRawSync } from "node:zlib";
import {
  formatNamespaceRecord,
  NAMESPACE_RECORD_BYTES_MAX,
  type NamespaceRecord,
  parseNamespaceRecord,
} from "@kvferry/core";
import { META_PAGE_BYTES } from "./meta-records.js";

/** Pages of one record, at most: many times what the longest list of layers takes. */
const RECORD_PAGES_MAX = 16;

const AT = { digest: 0, page: 32, pages: 36, bytes: 40, text: 64 } as const;
const DIGEST_BYTES = 32;
const TEXT_BYTES = META_PAGE_BYTES - AT.text;

/** A namespace's record as pages of the drive, one after the other; undefined where it is too long. */
export function encodeNamespace(record: NamespaceRecord): Uint8Array | undefined {
  const text = deflateRawSync(formatNamespaceRecord(record));
  const count = Math.ceil(text.length / TEXT_BYTES);
  if (count > RECORD_PAGES_MAX) return undefined;
  const pages = new Uint8Array(count * META_PAGE_BYTES);
  const view = new DataView(pages.buffer);
  for (let i = 0; i < count; i++) {
    const page = i * META_PAGE_BYTES;
    const part = text.subarray(i * TEXT_BYTES, (i + 1) * TEXT_BYTES);
    pages.set(record.namespace.digest, page + AT.digest);
    view.setUint32(page + AT.page, i, true);
    view.setUint32(page + AT.pages, count, true);
    view.setUint32(page + AT.bytes, part.length, true);
    pages.set(part, page + AT.text);
  }
  return pages;
}

/** The records that pages say, in the order in which they were written. Of a record that lacks a page, or makes no sense, there is nothing. */
export function decodeNamespaces(pages: readonly (Uint8Array | undefined)[]): NamespaceRecord[] {
  const records: NamespaceRecord[] = [];
  for (let i = 0; i < pages.length; i++) {
    const count = headerOf(pages[i])?.pages ?? 0;
    const record = decodeRecord(pages.slice(i, i + Math.min(count, RECORD_PAGES_MAX)));
    if (record !== undefined) records.push(record);
  }
  return records;
}

function decodeRecord(pages: readonly (Uint8Array | undefined)[]): NamespaceRecord | undefined {
  const first = headerOf(pages[0]);
  const parts: Uint8Array[] = [];
  for (const [i, page] of pages.entries()) {
    const header = headerOf(page);
    if (page === undefined || header === undefined || first === undefined) return undefined;
    if (header.page !== i || header.pages !== pages.length || header.digestHex !== first.digestHex) return undefined;
    parts.push(page.subarray(AT.text, AT.text + Math.min(header.bytes, TEXT_BYTES)));
  }
  try {
    const text = inflateRawSync(Buffer.concat(parts), { maxOutputLength: NAMESPACE_RECORD_BYTES_MAX });
    const record = parseNamespaceRecord(text.toString("utf8"));
    return record.namespace.digestHex === first?.digestHex ? record : undefined;
  } catch {
    return undefined; // of a later version, or no record at all
  }
}

function headerOf(
  page: Uint8Array | undefined,
): { digestHex: string; page: number; pages: number; bytes: number } | undefined {
  if (page === undefined) return undefined;
  const view = new DataView(page.buffer, page.byteOffset, META_PAGE_BYTES);
  const digestHex = Buffer.from(page.subarray(AT.digest, AT.digest + DIGEST_BYTES)).toString("hex");
  const [at, pages, bytes] = [AT.page, AT.pages, AT.bytes].map((each) => view.getUint32(each, true));
  return { digestHex, page: at as number, pages: pages as number, bytes: bytes as number };
}

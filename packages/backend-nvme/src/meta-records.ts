import type { KeyBatch } from "@kvferry/core";
import type { SegmentNamespace } from "@kvferry/native";

/** Facts about the drive lie in it as blocks of namespaces of its own, a page each; docs/nvme-format.md. */
export const META_PAGE_BYTES = 4096;
const META_KEY_BYTES = 8;
const DIGEST_BYTES = 32;

/** Keys that were removed. */
export const TOMBSTONES: SegmentNamespace = metaNamespace("kvferry nvme tombstones 1");
/** The state of the WearCounter, at the start of each segment. */
export const WEAR: SegmentNamespace = metaNamespace("kvferry nvme wear 1");
/** Whose the blocks are: the records of namespaces, at the start of each segment. */
export const NAMESPACES: SegmentNamespace = metaNamespace("kvferry nvme namespaces 1");
/** Of none of them are there blocks that anyone has stored. */
export const META_NAMESPACES: readonly SegmentNamespace[] = [TOMBSTONES, WEAR, NAMESPACES];

const AT = { digest: 0, keyBytes: 32, blockBytes: 36, count: 40, keys: 64 } as const;

/** A page of tombstones: these keys of a namespace were removed. */
export interface Tombstones {
  readonly namespaceDigest: Uint8Array;
  readonly blockBytes: number;
  readonly keys: KeyBatch;
}

/** Pages, one after the other, that say that keys were removed. */
export function encodeTombstones(namespace: SegmentNamespace, keys: KeyBatch): Uint8Array {
  const perPage = Math.floor((META_PAGE_BYTES - AT.keys) / keys.stride);
  const pages = new Uint8Array(Math.ceil(keys.count / perPage) * META_PAGE_BYTES);
  const view = new DataView(pages.buffer);
  for (let at = 0, page = 0; at < keys.count; at += perPage, page += META_PAGE_BYTES) {
    const count = Math.min(perPage, keys.count - at);
    pages.set(namespace.namespaceDigest, page + AT.digest);
    view.setUint32(page + AT.keyBytes, keys.stride, true);
    view.setUint32(page + AT.blockBytes, namespace.blockBytes, true);
    view.setUint32(page + AT.count, count, true);
    pages.set(keys.bytes.subarray(at * keys.stride, (at + count) * keys.stride), page + AT.keys);
  }
  return pages;
}

/** What a page says; undefined where it says nothing that can be meant. */
export function decodeTombstones(page: Uint8Array): Tombstones | undefined {
  const view = new DataView(page.buffer, page.byteOffset, META_PAGE_BYTES);
  const stride = view.getUint32(AT.keyBytes, true);
  const count = view.getUint32(AT.count, true);
  if (AT.keys + stride * count > META_PAGE_BYTES) return undefined;
  return {
    namespaceDigest: page.slice(AT.digest, AT.digest + DIGEST_BYTES),
    blockBytes: view.getUint32(AT.blockBytes, true),
    keys: { bytes: page.slice(AT.keys, AT.keys + stride * count), stride, count },
  };
}

/** Keys for the pages of a record: their numbers. */
export function metaKeys(count: number): Uint8Array {
  const bytes = new Uint8Array(count * META_KEY_BYTES);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < count; i++) view.setUint32(i * META_KEY_BYTES, i, true);
  return bytes;
}

export function isSameNamespace(a: SegmentNamespace, b: SegmentNamespace): boolean {
  return shelfName(a) === shelfName(b);
}

/** A name for what is kept apart: the blocks of a namespace of one size. */
export function shelfName({ namespaceDigest, keyBytes, blockBytes }: SegmentNamespace): string {
  return `${Buffer.from(namespaceDigest).toString("hex")}/${keyBytes}/${blockBytes}`;
}

function metaNamespace(name: string): SegmentNamespace {
  const namespaceDigest = new Uint8Array(DIGEST_BYTES);
  new TextEncoder().encodeInto(name, namespaceDigest);
  return Object.freeze({ namespaceDigest, keyBytes: META_KEY_BYTES, blockBytes: META_PAGE_BYTES });
}

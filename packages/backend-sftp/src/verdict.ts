import {
  BLOCK_FORMAT_VERSION,
  type Checksum,
  decodeFooter,
  type ExpectedBlock,
  FOOTER_BYTES,
  Outcome,
  paddedBytes,
  type Verdict,
} from "@kvferry/core";

const CODEC_PLAIN = 0;
const CHECKSUM_CRC32C = 1;

export const CORRUPT: Verdict = Object.freeze({ outcome: Outcome.CORRUPT, code: "CORRUPT" });
export const MISS: Verdict = Object.freeze({ outcome: Outcome.MISS });

/** Bytes of a stored block after its payload: padding and footer. */
export function tailBytes(blockBytes: number): number {
  return paddedBytes(blockBytes) - blockBytes + FOOTER_BYTES;
}

/** Judges a block that lies in two places, its payload in a slot and padding and footer in `tail`: what docs/block-format.md says that a
 * reader decides. */
export function judgeBlock(slot: Uint8Array, tail: Uint8Array, expected: ExpectedBlock, checksum: Checksum): Verdict {
  const padding = tail.length - FOOTER_BYTES;
  const footer = decodeFooter(tail.subarray(padding), checksum);
  if (footer === undefined) return CORRUPT;
  const { formatVersion, codec, checksumKind } = footer;
  if (formatVersion !== BLOCK_FORMAT_VERSION || codec !== CODEC_PLAIN || checksumKind !== CHECKSUM_CRC32C) {
    return { outcome: Outcome.MISS, code: "UNSUPPORTED" };
  }
  if (!equal(footer.namespaceDigest, expected.namespaceDigest)) {
    return { outcome: Outcome.MISS, code: "NAMESPACE_MISMATCH" };
  }
  if (!equal(footer.key, expected.key) || footer.payloadBytes !== expected.blockBytes) return CORRUPT;
  if (footer.payloadChecksum !== checksum(slot)) return CORRUPT;
  for (let i = 0; i < padding; i++) if (tail[i] !== 0) return CORRUPT;
  return { outcome: Outcome.LOADED };
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

import {
  BLOCK_FORMAT_VERSION,
  decodeFooter,
  type ExpectedBlock,
  FOOTER_BYTES,
  Outcome,
  paddedBytes,
  type Verdict,
} from "@kvferry/core";
import type { RunningChecksum } from "./checksum.js";

const CODEC_PLAIN = 0;
const CHECKSUM_CRC32C = 1;

export const CORRUPT: Verdict = Object.freeze({ outcome: Outcome.CORRUPT, code: "CORRUPT" });

/** Bytes of a stored block after its payload: padding and footer. */
export function tailBytes(blockBytes: number): number {
  return paddedBytes(blockBytes) - blockBytes + FOOTER_BYTES;
}

/** Judges a block whose payload lies elsewhere: what docs/block-format.md says that a reader decides, out of its padding and footer (`tail`)
 * and the checksum of its payload. */
export function judgeBlock(
  tail: Uint8Array,
  payloadChecksum: number,
  expected: ExpectedBlock,
  checksum: RunningChecksum,
): Verdict {
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
  if (footer.payloadChecksum !== payloadChecksum) return CORRUPT;
  for (let i = 0; i < padding; i++) if (tail[i] !== 0) return CORRUPT;
  return { outcome: Outcome.LOADED };
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

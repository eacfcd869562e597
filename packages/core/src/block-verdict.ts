import {
  BLOCK_FORMAT_VERSION,
  CHECKSUM_CRC32C,
  CODEC_PLAIN,
  decodeFooter,
  FOOTER_BYTES,
  storedBlockBytes,
} from "./block-format.js";
import { type Checksum, crc32c } from "./crc32c.js";
import type { ErrorCode } from "./errors.js";
import { Outcome } from "./outcomes.js";

/** What must be true of a block for it to be the one that was asked for. */
export interface ExpectedBlock {
  readonly blockBytes: number;
  readonly key: Uint8Array;
  readonly namespaceDigest: Uint8Array;
}

/** What a reader decides, with the reason code of anything but LOADED. */
export interface Verdict {
  readonly outcome: typeof Outcome.LOADED | typeof Outcome.MISS | typeof Outcome.CORRUPT;
  readonly code?: ErrorCode;
}

/** Bytes are there that are not those of the block. */
export const CORRUPT_VERDICT: Verdict = Object.freeze({ outcome: Outcome.CORRUPT, code: "CORRUPT" });
/** Nothing is there that claims to be the block. */
export const MISS_VERDICT: Verdict = Object.freeze({ outcome: Outcome.MISS });

/** Judges the stored bytes of a block where they lie together: payload, padding and footer. */
export function verifyBlock(stored: Uint8Array, expected: ExpectedBlock, checksum: Checksum = crc32c): Verdict {
  const { blockBytes } = expected;
  if (stored.length < storedBlockBytes(blockBytes)) return CORRUPT_VERDICT;
  const tail = stored.subarray(blockBytes, storedBlockBytes(blockBytes));
  return judgeBlock(tail, checksum(stored.subarray(0, blockBytes)), expected, checksum);
}

/** Judges a block whose payload lies elsewhere, out of the checksum of its payload and of what follows it, `tail`: padding and footer. Top-down
 * as in "What a reader decides" of docs/block-format.md. The padding is looked at last, and as strictly as the rest: bytes that nobody has written
 * are a sign of a storage that lies. */
export function judgeBlock(
  tail: Uint8Array,
  payloadChecksum: number,
  expected: ExpectedBlock,
  checksum: Checksum = crc32c,
): Verdict {
  const padding = tail.length - FOOTER_BYTES;
  const footer = decodeFooter(tail.subarray(padding), checksum);
  if (footer === undefined) return CORRUPT_VERDICT;
  const { formatVersion, codec, checksumKind } = footer;
  if (formatVersion !== BLOCK_FORMAT_VERSION || codec !== CODEC_PLAIN || checksumKind !== CHECKSUM_CRC32C) {
    return { outcome: Outcome.MISS, code: "UNSUPPORTED" };
  }
  if (!equalBytes(footer.namespaceDigest, expected.namespaceDigest)) {
    return { outcome: Outcome.MISS, code: "NAMESPACE_MISMATCH" };
  }
  if (!equalBytes(footer.key, expected.key) || footer.payloadBytes !== expected.blockBytes) return CORRUPT_VERDICT;
  if (footer.payloadChecksum !== payloadChecksum) return CORRUPT_VERDICT;
  return tail.subarray(0, padding).every((byte) => byte === 0) ? { outcome: Outcome.LOADED } : CORRUPT_VERDICT;
}

function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

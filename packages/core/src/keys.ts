import { KvferryError } from "./errors.js";

/** The group index at the end of every key: 4 bytes, big-endian. */
export const GROUP_BYTES = 4;
/** Shortest and longest key: a hash of 1 to 124 bytes and the group. */
export const KEY_BYTES_MIN: number = 1 + GROUP_BYTES;
export const KEY_BYTES_MAX = 128;

/** N keys of one length, packed one after the other: key i is `bytes[i * stride, (i + 1) * stride)`. */
export interface KeyBatch {
  readonly bytes: Uint8Array;
  /** Bytes of one key: hash and 4-byte big-endian group index (vLLM's `OffloadKey`). */
  readonly stride: number;
  readonly count: number;
}

/** Wraps packed bytes without copying them.
 * @throws KvferryError INVALID_ARGUMENT if the length is no multiple of the stride. */
export function packedKeys(bytes: Uint8Array, stride: number): KeyBatch {
  if (!Number.isInteger(stride) || stride < KEY_BYTES_MIN || stride > KEY_BYTES_MAX) {
    throw new KvferryError(
      "INVALID_ARGUMENT",
      `key stride must be ${KEY_BYTES_MIN} to ${KEY_BYTES_MAX} bytes, got ${stride}`,
    );
  }
  if (bytes.length % stride !== 0) {
    throw new KvferryError("INVALID_ARGUMENT", `keys: ${bytes.length} bytes are no multiple of the stride ${stride}`);
  }
  return { bytes, stride, count: bytes.length / stride };
}

/** Packs separate keys of one length. An empty list needs the stride.
 * @throws KvferryError INVALID_ARGUMENT if lengths differ. */
export function packKeys(keys: readonly Uint8Array[], stride: number = keys[0]?.length ?? 0): KeyBatch {
  const bytes = new Uint8Array(keys.length * stride);
  for (const [i, key] of keys.entries()) {
    if (key.length !== stride) {
      throw new KvferryError("INVALID_ARGUMENT", `keys[${i}] has ${key.length} bytes, the batch's stride is ${stride}`);
    }
    bytes.set(key, i * stride);
  }
  return packedKeys(bytes, stride);
}

/** A view of key `index`; valid as long as the batch's bytes are. */
export function keyAt(keys: KeyBatch, index: number): Uint8Array {
  return keys.bytes.subarray(index * keys.stride, (index + 1) * keys.stride);
}

/** The keys of a batch at the given positions, copied. */
export function selectKeys(keys: KeyBatch, indices: ArrayLike<number>): KeyBatch {
  const bytes = new Uint8Array(indices.length * keys.stride);
  for (let i = 0; i < indices.length; i++) bytes.set(keyAt(keys, indices[i] as number), i * keys.stride);
  return { bytes, stride: keys.stride, count: indices.length };
}

/** Lower-case hex of a key, as in file names, logs and `kvferry inspect`. */
export function keyHex(key: Uint8Array): string {
  return Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString("hex");
}

/** The KV cache group of a key. */
export function keyGroup(key: Uint8Array): number {
  return new DataView(key.buffer, key.byteOffset, key.byteLength).getUint32(key.byteLength - GROUP_BYTES, false);
}

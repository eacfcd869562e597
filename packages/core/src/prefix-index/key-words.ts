import { randomBytes } from "node:crypto";
import type { KeyBatch } from "../keys.js";

const LITTLE_ENDIAN = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1;
/** Of the process, so that a client cannot find keys with one hash. */
const seed0: number = randomBytes(4).readInt32LE();
const seed1: number = randomBytes(4).readInt32LE();

/** How many 32-bit words a key takes; the last one is filled up with zeros. */
export function wordsOfKey(keyBytes: number): number {
  return Math.ceil(keyBytes / 4);
}

/** The keys of a batch as little-endian words, `wordsOfKey` for each: a view of the batch's memory where that can be, else a copy. */
export function batchWords({ bytes, stride, count }: KeyBatch): Int32Array {
  if (LITTLE_ENDIAN && stride % 4 === 0 && bytes.byteOffset % 4 === 0) {
    return new Int32Array(bytes.buffer, bytes.byteOffset, (count * stride) / 4);
  }
  const words = new Int32Array(count * wordsOfKey(stride));
  for (let i = 0, to = 0; i < count; i++) to = putKey(words, to, bytes, i * stride, stride);
  return words;
}

/** A key alone as words. */
export function keyWords(key: Uint8Array): Int32Array {
  return batchWords({ bytes: key, stride: key.length, count: 1 });
}

function putKey(words: Int32Array, start: number, bytes: Uint8Array, from: number, keyBytes: number): number {
  const end = from + keyBytes;
  let to = start;
  for (let at = from; at < end; to++) {
    let word = 0;
    for (let shift = 0; shift < 32 && at < end; shift += 8) word |= (bytes[at++] as number) << shift;
    words[to] = word;
  }
  return to;
}

/** Writes the key that lies at `at` as bytes. */
export function putKeyBytes(words: Int32Array, at: number, keyBytes: number, out: Uint8Array, offset: number): void {
  for (let i = 0; i < keyBytes; i++) out[offset + i] = (words[at + (i >> 2)] as number) >>> ((i & 3) << 3);
}

/** The last four bytes of the key that lies at `at`: its group, in an order of bytes of its own. */
export function groupWord(words: Int32Array, at: number, keyBytes: number): number {
  const last = at + wordsOfKey(keyBytes) - 1;
  const over = (keyBytes & 3) << 3;
  if (over === 0) return words[last] as number;
  return ((words[last - 1] as number) >>> over) | ((words[last] as number) << (32 - over));
}

/** HalfSipHash-1-3 of `count` words (without its length, which is the same for all keys of an index): 32 bits, signed. A keyed hash, so that nobody
 * who lacks the seed can choose keys that collide. */
export function hashWords(words: Int32Array, at: number, count: number): number {
  let v0 = seed0;
  let v1 = seed1;
  let v2 = seed0 ^ 0x6c796765;
  let v3 = seed1 ^ 0x74656462;
  const end = at + count;
  for (let i = at; i < end; i++) {
    const word = words[i] as number;
    v3 ^= word;
    v0 = (v0 + v1) | 0;
    v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
    v0 = (v0 << 16) | (v0 >>> 16);
    v2 = (v2 + v3) | 0;
    v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
    v0 = (v0 + v3) | 0;
    v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
    v2 = (v2 + v1) | 0;
    v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
    v2 = (v2 << 16) | (v2 >>> 16);
    v0 ^= word;
  }
  v2 ^= 0xff;
  for (let round = 0; round < 3; round++) {
    v0 = (v0 + v1) | 0;
    v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
    v0 = (v0 << 16) | (v0 >>> 16);
    v2 = (v2 + v3) | 0;
    v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
    v0 = (v0 + v3) | 0;
    v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
    v2 = (v2 + v1) | 0;
    v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
    v2 = (v2 << 16) | (v2 >>> 16);
  }
  return v1 ^ v3;
}

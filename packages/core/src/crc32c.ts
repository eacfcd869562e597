/** A checksum of some bytes, 32 bits, unsigned. */
export type Checksum = (bytes: Uint8Array) => number;

const POLYNOMIAL_REFLECTED = 0x82f63b78;
const LITTLE_ENDIAN = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1;

/** Eight tables of 256 words, one after the other: table n advances a byte by n further bytes. */
const tables: Uint32Array = makeTables();
const t0: Uint32Array = tables.subarray(0, 256);
const t1: Uint32Array = tables.subarray(256, 512);
const t2: Uint32Array = tables.subarray(512, 768);
const t3: Uint32Array = tables.subarray(768, 1024);
const t4: Uint32Array = tables.subarray(1024, 1280);
const t5: Uint32Array = tables.subarray(1280, 1536);
const t6: Uint32Array = tables.subarray(1536, 1792);
const t7: Uint32Array = tables.subarray(1792, 2048);

/** CRC-32C (Castagnoli), eight bytes a step: around 1 GB/s. The CRC of "123456789" is 0xe3069283. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  let at = 0;
  if (LITTLE_ENDIAN) {
    const ahead = Math.min(bytes.length, -bytes.byteOffset & 3); // words can only be read at multiples of 4
    for (; at < ahead; at++) crc = step(crc, bytes[at] as number);
    const pairs = (bytes.length - at) >>> 3;
    if (pairs > 0) crc = eightAtATime(crc, new Uint32Array(bytes.buffer, bytes.byteOffset + at, pairs * 2));
    at += pairs * 8;
  }
  for (; at < bytes.length; at++) crc = step(crc, bytes[at] as number);
  return (crc ^ 0xffffffff) >>> 0;
}

function step(crc: number, byte: number): number {
  return (t0[(crc ^ byte) & 0xff] as number) ^ (crc >>> 8);
}

function eightAtATime(start: number, words: Uint32Array): number {
  let crc = start;
  for (let i = 0; i < words.length; i += 2) {
    const low = crc ^ (words[i] as number);
    const high = words[i + 1] as number;
    crc =
      (t7[low & 0xff] as number) ^
      (t6[(low >>> 8) & 0xff] as number) ^
      (t5[(low >>> 16) & 0xff] as number) ^
      (t4[low >>> 24] as number) ^
      (t3[high & 0xff] as number) ^
      (t2[(high >>> 8) & 0xff] as number) ^
      (t1[(high >>> 16) & 0xff] as number) ^
      (t0[high >>> 24] as number);
  }
  return crc;
}

function makeTables(): Uint32Array {
  const made = new Uint32Array(8 * 256);
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ POLYNOMIAL_REFLECTED : crc >>> 1;
    made[byte] = crc;
  }
  for (let at = 256; at < made.length; at++) {
    const before = made[at - 256] as number;
    made[at] = (made[before & 0xff] as number) ^ (before >>> 8);
  }
  return made;
}

import { crc32c as portable } from "@kvferry/core";
import { crc32c as native, requireNative } from "@kvferry/native";

/** CRC-32C of bytes that follow those with the checksum `seed`. */
export type RunningChecksum = (bytes: Uint8Array, seed?: number) => number;

let chosen: RunningChecksum | undefined;

/** The data plane's where there is one for this platform, else JavaScript's at a tenth of the speed. */
export function runningChecksum(): RunningChecksum {
  if (chosen !== undefined) return chosen;
  try {
    requireNative();
    chosen = native;
  } catch {
    chosen = portableRunning;
  }
  return chosen;
}

export function portableRunning(bytes: Uint8Array, seed = 0): number {
  return combineChecksums(seed, portable(bytes), bytes.length);
}

/** The 32 × 32 bits that advance a CRC register by one zero bit; each column is a word. */
const oneBit: Uint32Array = Uint32Array.from({ length: 32 }, (_, i) => (i === 0 ? 0x82f63b78 : 2 ** (i - 1)));
/** Entry n advances by 2^n zero bytes. */
const powers: Uint32Array[] = [];

/** The checksum of a ‖ b out of those of a and b: a's register goes on over as many zeros as b has bytes. */
export function combineChecksums(a: number, b: number, bytesOfB: number): number {
  let crc = a;
  for (let n = 0, rest = bytesOfB; rest > 0; n++, rest = Math.floor(rest / 2)) {
    if (rest % 2 === 1) crc = times(power(n), crc);
  }
  return (crc ^ b) >>> 0;
}

function power(n: number): Uint32Array {
  if (powers.length === 0) powers.push(square(square(square(oneBit))));
  for (let next = powers.length; next <= n; next++) powers.push(square(powers[next - 1] as Uint32Array));
  return powers[n] as Uint32Array;
}

function times(matrix: Uint32Array, vector: number): number {
  let product = 0;
  for (let bit = 0, rest = vector; rest !== 0; bit++, rest >>>= 1) if (rest & 1) product ^= matrix[bit] as number;
  return product >>> 0;
}

function square(matrix: Uint32Array): Uint32Array {
  return Uint32Array.from(matrix, (column) => times(matrix, column));
}

/** As S3 writes a CRC-32C in a header: base64 of its four bytes, most significant first. */
export function checksumHeader(crc: number): string {
  const bytes = Buffer.allocUnsafe(4);
  bytes.writeUInt32BE(crc, 0);
  return bytes.toString("base64");
}

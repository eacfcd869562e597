const hostIsLittleEndian = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;

/** u32 little-endian. Copied: within a frame they stand at any address. */
export function unpackUint32(bytes: Uint8Array): Uint32Array {
  const numbers = new Uint32Array(bytes.length / 4);
  if (hostIsLittleEndian) {
    new Uint8Array(numbers.buffer).set(bytes);
    return numbers;
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let i = 0; i < numbers.length; i++) numbers[i] = view.getUint32(i * 4, true);
  return numbers;
}

export function packUint32(numbers: Uint32Array): Uint8Array {
  if (hostIsLittleEndian) return new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
  const bytes = new Uint8Array(numbers.length * 4);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < numbers.length; i++) view.setUint32(i * 4, numbers[i] as number, true);
  return bytes;
}

/** u64 little-endian; undefined where one does not fit 53 bits. */
export function unpackUint64(bytes: Uint8Array): Float64Array | undefined {
  const numbers = new Float64Array(bytes.length / 8);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let i = 0; i < numbers.length; i++) {
    const number = view.getUint32(i * 8 + 4, true) * 2 ** 32 + view.getUint32(i * 8, true);
    if (!Number.isSafeInteger(number)) return undefined;
    numbers[i] = number;
  }
  return numbers;
}

export function packUint64(numbers: Float64Array): Uint8Array {
  const bytes = new Uint8Array(numbers.length * 8);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < numbers.length; i++) {
    const number = numbers[i] as number;
    view.setUint32(i * 8, number >>> 0, true);
    view.setUint32(i * 8 + 4, Math.floor(number / 2 ** 32), true);
  }
  return bytes;
}

// Blocks whose bytes follow from their number, for all tests and the writer of the crash test.
export const KEY_BYTES = 36;

export const namespaceFields = {
  model: "nvme",
  weights: "ab".repeat(32),
  dtype: "bfloat16",
  kvDtype: "bfloat16",
  layout: "test",
  tokensPerHash: 16,
  blocksPerChunk: 1,
  groups: [{ tokensPerBlock: 16, layers: ["layer.0"] }],
  parallel: null,
  engine: "test",
  engineVersion: "1",
  formatVersion: 1,
  tenant: "",
};

export function makeKeys(first, count) {
  const bytes = Buffer.alloc(count * KEY_BYTES);
  for (let i = 0; i < count; i++) {
    const number = first + i;
    bytes.writeUInt32BE(Math.imul(number, 2654435761) >>> 0, i * KEY_BYTES);
    bytes.writeDoubleBE(number, i * KEY_BYTES + 8);
  }
  return bytes;
}

export function numberOf(key) {
  return Buffer.from(key).readDoubleBE(8);
}

/** Never twice the same eight bytes in a row: a block that is shifted or cut off differs. */
export function fillBlock(bytes, number) {
  const words = new Float64Array(Math.ceil(bytes.byteLength / 8));
  for (let i = 0; i < words.length; i++) words[i] = number + 0.5 + i / (words.length * 4);
  bytes.set(new Uint8Array(words.buffer, 0, bytes.byteLength));
}

/** What the writer of the crash test has: 8 segments of 1 MiB. */
export const CRASH_BLOCK_BYTES = 16 * 1024;
export const CRASH_DRIVE = { capacityBytes: 9 * 1024 * 1024, segmentBytes: 1024 * 1024 };

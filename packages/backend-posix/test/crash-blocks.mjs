// Blocks whose bytes follow from their number, for writer and reader of the crash test.
export const KEY_BYTES = 36;
export const BLOCK_BYTES = 64 * 1024;

export const namespaceFields = {
  model: "crash",
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
    bytes.writeUInt32BE(Math.imul(number, 2654435761) >>> 0, i * KEY_BYTES); // spreads over the folders
    bytes.writeDoubleBE(number, i * KEY_BYTES + 8);
  }
  return bytes;
}

export function numberOf(key) {
  return Buffer.from(key).readDoubleBE(8);
}

export function fillBlock(bytes, number) {
  const words = new Float64Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 8);
  for (let i = 0; i < words.length; i++) words[i] = number + i / words.length;
}

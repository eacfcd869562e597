// Blocks whose bytes follow from their number, for tests with several processes.
export const KEY_BYTES = 36;
export const BLOCK_BYTES = 8192;

export const namespaceFields = {
  ...{ model: "m", weights: "00".repeat(32), dtype: "d", kvDtype: "d", layout: "l", tokensPerHash: 16 },
  ...{ blocksPerChunk: 1, groups: [{ tokensPerBlock: 16, layers: ["0"] }], parallel: null, engine: "e" },
  ...{ engineVersion: "1", formatVersion: 1, tenant: "capacity" },
};

/** @param {number} number */
export function keyNumber(number) {
  const key = Buffer.alloc(KEY_BYTES);
  key.writeUInt32BE(Math.imul(number + 1, 0x9e3779b1) >>> 0, 0);
  key.writeUInt32BE(number, 8);
  return new Uint8Array(key);
}

/** @param {Uint8Array} bytes @param {number} number */
export function fillBlock(bytes, number) {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2);
  let state = Math.imul(number + 1, 0x9e3779b1) | 1;
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    words[i] = state;
  }
}

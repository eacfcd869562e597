/** Seeded pseudo-random numbers in [0, 1): the same seed, the same sequence (mulberry32). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** `length` bytes that depend on the seed alone; no two seeds give the same for any useful length. */
export function seededBytes(seed: number, length: number): Uint8Array {
  const words = new Uint32Array(Math.ceil(length / 4));
  let state = Math.imul(seed + 1, 0x9e3779b1) >>> 0 || 1;
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
  return new Uint8Array(words.buffer, 0, length);
}

const POOL_BYTES = 1 << 20;
let pool: Uint8Array | undefined;

/** `length` bytes that depend on `id` alone, at the speed of a copy: a pool of random bytes, read from another place for each id. */
export function patternBytes(id: number, length: number): Uint8Array {
  pool ??= seededBytes(1, POOL_BYTES);
  const bytes = new Uint8Array(length);
  const start = Math.imul(id + 1, 0x9e3779b1) >>> 12; // 20 bits: a place in the pool
  for (let at = 0; at < length; ) {
    const from = (start + at) % POOL_BYTES;
    const part = pool.subarray(from, from + Math.min(length - at, POOL_BYTES - from));
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

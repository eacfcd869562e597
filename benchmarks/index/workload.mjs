// Requests as an engine sends them: chains of blocks, whose keys are drawn from the number of the request.
export const KEY_BYTES = 36;
export const REQUEST_BLOCKS = 1024;
const KEY_WORDS = KEY_BYTES / 4;

/** SplitMix32: the same numbers for the same seed. */
export function numbers(seed) {
  let state = seed | 0;
  return () => {
    state = (state + 0x9e3779b9) | 0;
    let mixed = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return (mixed ^ (mixed >>> 15)) >>> 0;
  };
}

/** The keys of a request; all in one group. */
export function requestKeys(request) {
  const next = numbers(Math.imul(request + 1, 0x9e3779b1));
  const words = new Uint32Array(REQUEST_BLOCKS * KEY_WORDS);
  for (let i = 0; i < words.length; i++) words[i] = i % KEY_WORDS === KEY_WORDS - 1 ? 0 : next();
  return batch(words);
}

/** Keys drawn from all over some requests, in no order. */
export function mixedKeys(requests, seed) {
  const next = numbers(seed);
  const words = new Uint32Array(REQUEST_BLOCKS * KEY_WORDS);
  const sources = requests.map(({ bytes }) => new Uint32Array(bytes.buffer));
  for (let i = 0; i < REQUEST_BLOCKS; i++) {
    const from = (next() % REQUEST_BLOCKS) * KEY_WORDS;
    words.set(sources[next() % sources.length].subarray(from, from + KEY_WORDS), i * KEY_WORDS);
  }
  return batch(words);
}

function batch(words) {
  return { bytes: new Uint8Array(words.buffer), stride: KEY_BYTES, count: REQUEST_BLOCKS };
}

import { randomBytes } from "node:crypto";
import { KvferryError } from "./errors.js";
import { KEY_BYTES_MAX, KEY_BYTES_MIN, type KeyBatch } from "./keys.js";

const LITTLE_ENDIAN = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1;
const CAPACITY_MIN = 16;
/** Of 8: how full the table may become. */
const LOAD_EIGHTHS_MAX = 6;

/**
 * A set of keys of one length, packed: the key's bytes (in words) and four more a place, no object for a key. Open addressing with linear probing; a delete moves
 * what follows back, so that there are no tombstones. Doubles when three quarters are taken; never shrinks but by `clear`. The hash is
 * seeded, because keys come from clients. Not for more than 2^30 keys.
 */
export class KeySet {
  /** Bytes of a key. */
  readonly keyBytes: number;
  readonly #seed: number = randomBytes(4).readUInt32LE();
  readonly #words: number;
  /** The key that is being asked for, as `#load` has left it. */
  readonly #wanted: Int32Array;
  /** Hash of the key in each place, 0 where there is none. */
  #hashes: Uint32Array;
  /** Keys as words, little-endian, the last one filled up with zeros. */
  #keys: Int32Array;
  #mask: number;
  #size = 0;

  /** @param expectedKeys room for so many without growing.
   * @throws KvferryError INVALID_ARGUMENT if the length is none of a key. */
  constructor(keyBytes: number, expectedKeys: number = 0) {
    if (!Number.isInteger(keyBytes) || keyBytes < KEY_BYTES_MIN || keyBytes > KEY_BYTES_MAX) {
      throw misuse(`keyBytes must be ${KEY_BYTES_MIN} to ${KEY_BYTES_MAX}, got ${keyBytes}`);
    }
    this.keyBytes = keyBytes;
    this.#words = Math.ceil(keyBytes / 4);
    this.#wanted = new Int32Array(this.#words);
    let capacity = CAPACITY_MIN;
    while (capacity * LOAD_EIGHTHS_MAX < expectedKeys * 8) capacity *= 2;
    this.#mask = capacity - 1;
    this.#hashes = new Uint32Array(capacity);
    this.#keys = new Int32Array(capacity * this.#words);
  }

  get size(): number {
    return this.#size;
  }

  /** Bytes of memory that the set takes. */
  get memoryBytes(): number {
    return this.#hashes.byteLength + this.#keys.byteLength;
  }

  /** False if it was there.
   * @throws KvferryError INVALID_ARGUMENT for a key of another length, as every method. */
  add(key: Uint8Array): boolean {
    this.#check(key.length);
    if ((this.#size + 1) * 8 > (this.#mask + 1) * LOAD_EIGHTHS_MAX) this.#grow();
    const hash = this.#load(key);
    const place = this.#find(hash);
    if (this.#hashes[place] !== 0) return false;
    this.#hashes[place] = hash;
    this.#put(this.#wanted, 0, place);
    this.#size++;
    return true;
  }

  has(key: Uint8Array): boolean {
    this.#check(key.length);
    return this.#hashes[this.#find(this.#load(key))] !== 0;
  }

  /** Writes 1 to `out[i]` if key i is there, else 0; how many are there. */
  hasMany(keys: KeyBatch, out: Uint8Array): number {
    this.#check(keys.stride);
    if (out.length < keys.count) throw misuse(`out has ${out.length} bytes for ${keys.count} keys`);
    const words = wordsOf(keys);
    let found = 0;
    for (let i = 0; i < keys.count; i++) {
      this.#want(keys, words, i);
      const here = this.#hashes[this.#find(this.#hash())] === 0 ? 0 : 1;
      out[i] = here;
      found += here;
    }
    return found;
  }

  /** False if it was not there. */
  delete(key: Uint8Array): boolean {
    this.#check(key.length);
    let hole = this.#find(this.#load(key));
    if (this.#hashes[hole] === 0) return false;
    const words = this.#words;
    for (let next = (hole + 1) & this.#mask; this.#hashes[next] !== 0; next = (next + 1) & this.#mask) {
      // a key may move back only as far as its own first place
      const home = (this.#hashes[next] as number) & this.#mask;
      if (((next - home) & this.#mask) < ((next - hole) & this.#mask)) continue;
      this.#hashes[hole] = this.#hashes[next] as number;
      this.#keys.copyWithin(hole * words, next * words, (next + 1) * words);
      hole = next;
    }
    this.#hashes[hole] = 0;
    this.#size--;
    return true;
  }

  /** Empties the set and gives its memory back. */
  clear(): void {
    this.#mask = CAPACITY_MIN - 1;
    this.#hashes = new Uint32Array(CAPACITY_MIN);
    this.#keys = new Int32Array(CAPACITY_MIN * this.#words);
    this.#size = 0;
  }

  #grow(): void {
    const words = this.#words;
    const [hashes, keys] = [this.#hashes, this.#keys];
    const capacity = hashes.length * 2;
    this.#mask = capacity - 1;
    this.#hashes = new Uint32Array(capacity);
    this.#keys = new Int32Array(capacity * words);
    for (let from = 0; from < hashes.length; from++) {
      const hash = hashes[from] as number;
      if (hash === 0) continue;
      let place = hash & this.#mask;
      while (this.#hashes[place] !== 0) place = (place + 1) & this.#mask;
      this.#hashes[place] = hash;
      this.#put(keys, from * words, place);
    }
  }

  #put(source: Int32Array, from: number, place: number): void {
    const start = place * this.#words;
    for (let i = 0; i < this.#words; i++) this.#keys[start + i] = source[from + i] as number;
  }

  /** The place of the wanted key, or the empty one where it would go. */
  #find(hash: number): number {
    const hashes = this.#hashes;
    const keys = this.#keys;
    const wanted = this.#wanted;
    const words = wanted.length;
    const mask = this.#mask;
    let place = hash & mask;
    for (let found = hashes[place] as number; found !== 0; found = hashes[place] as number) {
      if (found === hash) {
        const start = place * words;
        let i = 0;
        while (i < words && keys[start + i] === wanted[i]) i++;
        if (i === words) return place;
      }
      place = (place + 1) & mask;
    }
    return place;
  }

  /** Makes key `index` of a batch the wanted one; from words it is several times as fast. */
  #want(keys: KeyBatch, words: Int32Array | undefined, index: number): void {
    if (words === undefined) {
      this.#wantBytes(keys.bytes, index * keys.stride);
      return;
    }
    const wanted = this.#wanted;
    const start = index * wanted.length;
    for (let i = 0; i < wanted.length; i++) wanted[i] = words[start + i] as number;
  }

  #wantBytes(bytes: Uint8Array, at: number): void {
    const wanted = this.#wanted;
    const end = at + this.keyBytes;
    for (let i = 0, from = at; i < wanted.length; i++) {
      let word = 0;
      for (let shift = 0; shift < 32 && from < end; shift += 8) word |= (bytes[from++] as number) << shift;
      wanted[i] = word;
    }
  }

  /** Makes a single key the wanted one; its hash. */
  #load(key: Uint8Array): number {
    this.#wantBytes(key, 0);
    return this.#hash();
  }

  /** MurmurHash3 (32 bits) of the wanted key, seeded, never 0. */
  #hash(): number {
    const wanted = this.#wanted;
    let hash = this.#seed;
    for (let i = 0; i < wanted.length; i++) {
      const mixed = Math.imul(wanted[i] as number, 0xcc9e2d51);
      hash ^= Math.imul((mixed << 15) | (mixed >>> 17), 0x1b873593);
      hash = (Math.imul((hash << 13) | (hash >>> 19), 5) + 0xe6546b64) | 0;
    }
    hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
    return (hash ^ (hash >>> 16)) >>> 0 || 1;
  }

  #check(length: number): void {
    if (length !== this.keyBytes) throw misuse(`a key of ${length} bytes in a set of keys of ${this.keyBytes}`);
  }
}

/** A batch as little-endian words, copied where it does not lie at a multiple of 4; undefined where that cannot be. */
function wordsOf({ bytes, stride, count }: KeyBatch): Int32Array | undefined {
  if (!LITTLE_ENDIAN || stride % 4 !== 0) return undefined;
  const { buffer, byteOffset } = bytes.byteOffset % 4 === 0 ? bytes : Uint8Array.from(bytes);
  return new Int32Array(buffer, byteOffset, (count * stride) / 4);
}

function misuse(reason: string): KvferryError {
  return new KvferryError("INVALID_ARGUMENT", `KeySet: ${reason}`, { operation: "keySet" });
}

const GHOSTS_MIN = 64;

/** Remembers the hashes of the last blocks that have gone, in 8 bytes for each. Two hashes that fall on one place push each other out, so it forgets
 * some early; it never remembers more than `ghostsMax`. */
export class Ghosts {
  readonly #ghostsMax: number;
  readonly #hashes: Uint32Array;
  /** When each was added, in additions, modulo 2^32. */
  readonly #added: Uint32Array;
  readonly #mask: number;
  #additions = 0;

  constructor(ghostsMax: number) {
    this.#ghostsMax = Math.max(GHOSTS_MIN, Math.min(ghostsMax, 2 ** 28));
    const places = 2 ** Math.ceil(Math.log2(this.#ghostsMax * 1.5));
    this.#hashes = new Uint32Array(places);
    this.#added = new Uint32Array(places);
    this.#mask = places - 1;
  }

  get memoryBytes(): number {
    return this.#hashes.byteLength + this.#added.byteLength;
  }

  add(hash: number): void {
    const place = this.#place(hash);
    this.#additions = (this.#additions + 1) >>> 0;
    this.#hashes[place] = hash;
    this.#added[place] = this.#additions;
  }

  /** Forgets a hash; whether it was remembered. */
  take(hash: number): boolean {
    const place = this.#place(hash);
    if (this.#hashes[place] !== hash >>> 0) return false;
    const age = (this.#additions - (this.#added[place] as number)) >>> 0;
    this.#hashes[place] = 0;
    return hash !== 0 && age < this.#ghostsMax;
  }

  #place(hash: number): number {
    return (Math.imul(hash, 0x9e3779b1) >>> 3) & this.#mask;
  }
}

const GHOSTS_MIN = 64;
const GHOSTS_MAX = 2 ** 28;
/** Places a ghost: spare ones, since two that fall on one place push each other out. */
const PLACES_SHARE = 1.25;
/** A place: the tag (18 bits), when it was added (11 bits), uses (3 bits); 0 if free. */
const USES_BITS = 3;
const TIME_BITS = 11;
const TAG_SHIFT: number = USES_BITS + TIME_BITS;
const TIME_MASK: number = 2 ** TIME_BITS - 1;
/** A ghost is forgotten after so many units of time, half of what the bits can tell apart. */
const UNITS_MAX: number = 2 ** (TIME_BITS - 1);

/** Most uses that a ghost remembers. */
export const GHOST_USES_MAX: number = 2 ** USES_BITS - 1;

/** Remembers the last blocks that have gone, and how often they were used: 5 bytes for each. It forgets some early, never remembers one for more
 * than `ghostsMax` later ones, and takes a stranger for one that it knows once in 200,000 times. */
export class Ghosts {
  readonly #places: Uint32Array;
  readonly #seed: number;
  /** Additions a unit of time. */
  readonly #unit: number;
  /** Places for each of the 2^32 hashes. */
  readonly #spread: number;
  #additions = 0;
  /** In units, as far as the bits can tell. */
  #now = 0;
  #sweep = 0;

  constructor(ghostsMax: number, seed: number) {
    const most = Math.ceil(Math.max(GHOSTS_MIN, Math.min(ghostsMax, GHOSTS_MAX)));
    this.#places = new Uint32Array(Math.ceil(most * PLACES_SHARE));
    this.#unit = most / UNITS_MAX;
    this.#spread = this.#places.length / 2 ** 32;
    this.#seed = seed | 0;
  }

  get memoryBytes(): number {
    return this.#places.byteLength;
  }

  /** Remembers a hash with its uses, up to GHOST_USES_MAX. */
  add(hash: number, uses: number): void {
    this.#now = Math.floor(++this.#additions / this.#unit) & TIME_MASK;
    // two places a call, so that none is older than what the bits can tell
    this.#forgetNext();
    this.#forgetNext();
    const mixed = this.#mix(hash);
    this.#places[this.#place(mixed)] =
      (tagOf(mixed) << TAG_SHIFT) | (this.#now << USES_BITS) | Math.min(uses, GHOST_USES_MAX);
  }

  /** The uses of a hash, or -1 if it is not remembered. */
  uses(hash: number): number {
    const mixed = this.#mix(hash);
    return this.#usesAt(this.#place(mixed), mixed);
  }

  /** As `uses`, and forgets the hash. */
  take(hash: number): number {
    const mixed = this.#mix(hash);
    const place = this.#place(mixed);
    const uses = this.#usesAt(place, mixed);
    if (uses !== -1) this.#places[place] = 0;
    return uses;
  }

  #usesAt(place: number, mixed: number): number {
    const ghost = this.#places[place] as number;
    return ghost >>> TAG_SHIFT !== tagOf(mixed) || this.#expired(ghost) ? -1 : ghost & GHOST_USES_MAX;
  }

  #forgetNext(): void {
    if (++this.#sweep >= this.#places.length) this.#sweep = 0;
    if (this.#expired(this.#places[this.#sweep] as number)) this.#places[this.#sweep] = 0;
  }

  #expired(ghost: number): boolean {
    return ((this.#now - (ghost >>> USES_BITS)) & TIME_MASK) >= UNITS_MAX;
  }

  #mix(hash: number): number {
    const mixed = Math.imul(hash ^ (hash >>> 16) ^ this.#seed, 0x85ebca6b);
    return Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  }

  #place(mixed: number): number {
    return Math.floor((mixed >>> 0) * this.#spread);
  }
}

/** From the bits that say least of the place; never 0, which a free place has. */
function tagOf(mixed: number): number {
  return (Math.imul(mixed ^ (mixed >>> 16), 0x9e3779b1) >>> TAG_SHIFT) | 1;
}

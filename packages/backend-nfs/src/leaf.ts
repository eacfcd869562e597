import { KeySet } from "@kvferry/core";

/** Numbers that `FileStore.stampFolders` gives of a folder. */
export const STAMP_NUMBERS = 6;

/** A folder's stamp as the server told it. Two that differ mean that names came or went between them. */
export interface Stamp {
  readonly text: string;
  /** Of the folder itself. */
  readonly bytes: number;
}

/** Folder `i` of what `stampFolders` answered. */
export function stampAt(stamps: BigInt64Array, i: number): Stamp {
  const numbers = stamps.subarray(i * STAMP_NUMBERS + 1, (i + 1) * STAMP_NUMBERS); // without the errno
  return { text: numbers.join(), bytes: Number(numbers[2]) };
}

/** What is known of one folder that holds blocks. */
export class Leaf {
  readonly folder: string;
  #stamp: Stamp | undefined;
  /** Goes up with every new stamp: what was asked for under an older one is not noted. */
  version = 0;
  /** When the newest question for the stamp was sent, by a monotonic clock: all that is noted was right then. */
  checkedAtMs: number = Number.NEGATIVE_INFINITY;
  /** Every block of the folder is in the presence index. */
  complete = false;
  /** A question in the background is under way. */
  refreshing = false;
  /** Names that the last listing showed. */
  #listed: number | undefined;
  #missing: KeySet | undefined;

  constructor(folder: string) {
    this.folder = folder;
  }

  /** The server has told the stamp. Answers may come in any order. Returns how many missing keys were forgotten. */
  note(stamp: Stamp, sentAtMs: number): number {
    if (sentAtMs < this.checkedAtMs) return 0;
    this.checkedAtMs = sentAtMs;
    if (this.#stamp?.text === stamp.text) return 0;
    this.#stamp = stamp;
    this.version++;
    return this.forget();
  }

  /** Forgets which blocks are missing. Returns how many were noted. */
  forget(): number {
    this.complete = false;
    const forgotten = this.#missing?.size ?? 0;
    this.#missing = undefined;
    return forgotten;
  }

  knowsMissing(key: Uint8Array): boolean {
    return this.complete || this.#missing?.has(key) === true;
  }

  /** False if it was noted already. */
  noteMissing(key: Uint8Array): boolean {
    this.#missing ??= new KeySet(key.length);
    return this.#missing.add(key);
  }

  noteListed(names: number): void {
    this.#listed = names;
  }

  /** How many names the folder may have; some file systems say nothing by its size. */
  get names(): number {
    return this.#listed ?? (this.#stamp?.bytes ?? 0) / 64;
  }
}

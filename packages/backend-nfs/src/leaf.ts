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
  /** All that were missing once, whatever the stamp was. */
  #missedOnce: KeySet | undefined;
  /** This process has stored blocks in it. */
  stored = false;

  constructor(folder: string) {
    this.folder = folder;
  }

  /** The server has told the stamp. Answers may come in any order. */
  note(stamp: Stamp, sentAtMs: number): void {
    if (sentAtMs < this.checkedAtMs) return;
    this.checkedAtMs = sentAtMs;
    if (this.#stamp?.text === stamp.text) return;
    this.#stamp = stamp;
    this.version++;
    this.complete = false;
    this.#missing = undefined;
  }

  /** Forgets which blocks are, and were, missing. */
  forget(): void {
    this.complete = false;
    this.#missing = undefined;
    this.#missedOnce = undefined;
  }

  knowsMissing(key: Uint8Array): boolean {
    return this.complete || this.#missing?.has(key) === true;
  }

  /** The kernel may hold it for missing still, also after the folder has changed (docs/nfs.md, "How fresh blocks are found"). */
  isDoubtful(key: Uint8Array): boolean {
    return this.#missedOnce?.has(key) === true;
  }

  /** False if it was noted once already. */
  noteMissing(key: Uint8Array): boolean {
    this.#missing ??= new KeySet(key.length);
    this.#missing.add(key);
    this.#missedOnce ??= new KeySet(key.length);
    return this.#missedOnce.add(key);
  }

  noteListed(names: number): void {
    this.#listed = names;
  }

  /** How many names the folder may have; some file systems say nothing by its size. */
  get names(): number {
    return this.#listed ?? (this.#stamp?.bytes ?? 0) / 64;
  }
}

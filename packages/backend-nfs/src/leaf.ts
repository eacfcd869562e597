import { KeySet } from "@kvferry/core";

/** Numbers that `FileStore.stampFolders` gives of a folder. */
export const STAMP_NUMBERS = 6;

/** A folder's stamp as the server told it. Two that are equal mean: no name came or went between them, but within one tick of the server's clock. */
export interface Stamp {
  readonly text: string;
  /** Change time by the server's clock, ns. The kernel goes by it alone: as long as it stays, it believes what it cached of the folder's names. */
  readonly changedNs: bigint;
  readonly bytes: number;
}

/** Folder `i` of what `stampFolders` answered. */
export function stampAt(stamps: BigInt64Array, i: number): Stamp {
  const numbers = stamps.subarray(i * STAMP_NUMBERS + 1, (i + 1) * STAMP_NUMBERS); // without the errno
  return { text: numbers.join(), changedNs: numbers[0] as bigint, bytes: Number(numbers[2]) };
}

/** What is known of one folder that holds blocks. Times in ms are of this host's monotonic clock. */
export class Leaf {
  readonly folder: string;
  stamp: Stamp | undefined;
  /** Goes up with every new stamp: what was asked for under an older one is not noted. */
  version = 0;
  /** When the newest question for the stamp was sent: all that is noted was right then. */
  checkedAtMs: number = Number.NEGATIVE_INFINITY;
  /** When the answer that first had this change time was here. */
  #seenAtMs: number = Number.NEGATIVE_INFINITY;
  /** Every block of the folder is in the presence index. */
  complete = false;
  /** Names were asked for when the change time was young: the kernel may hold that they are missing, and believe it as long as that time stays. */
  askedYoung = false;
  /** A question in the background is under way. */
  refreshing = false;
  /** Names that the last listing showed. */
  #listed: number | undefined;
  #missing: KeySet | undefined;

  constructor(folder: string) {
    this.folder = folder;
  }

  /** The server has answered a question of `sentAtMs`. Answers may come in any order. Returns how many missing keys were forgotten. */
  note(stamp: Stamp, sentAtMs: number, answeredAtMs: number): number {
    if (sentAtMs < this.checkedAtMs) return 0;
    this.checkedAtMs = sentAtMs;
    if (this.stamp?.text === stamp.text) return 0;
    if (this.stamp?.changedNs !== stamp.changedNs) {
      this.#seenAtMs = answeredAtMs;
      this.askedYoung = false;
    }
    this.stamp = stamp;
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

  /** Whether a name that comes from now on shows in the stamp: the tick of the server's clock in which it was made is over.
   * @param newestNs the newest change time that the server has shown, by its own clock. */
  isSettled(newestNs: bigint, granularityMs: number): boolean {
    if (this.stamp === undefined) return false;
    const olderMs = Number(newestNs - this.stamp.changedNs) / 1e6;
    return olderMs > granularityMs || this.checkedAtMs - this.#seenAtMs > granularityMs;
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
    return this.#listed ?? (this.stamp?.bytes ?? 0) / 64;
  }
}

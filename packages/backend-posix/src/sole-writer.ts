import { join } from "node:path";
import type { PathCalls } from "./path-calls.js";
import { livingWriters } from "./writers.js";

/** Writers on other hosts, or in other pid namespaces, see by this sign that this one lives; far below the hour they allow. */
const HEARTBEAT_MS = 5 * 60 * 1000;

/** How often the folder of writers is looked at, and how long a new writer waits for the others to have noticed it. */
const POLL_MS = 100;
export const NOTICE_MS: number = 2.5 * POLL_MS;

/** statfs magics of file systems that only this host writes, and that show a new folder to every process at once. */
const LOCAL_FILE_SYSTEMS: ReadonlySet<number> = new Set([
  0xef53, // ext2, ext3, ext4
  0x58465342, // xfs
  0x9123683e, // btrfs
  0xf2f52010, // f2fs
  0x2fc12fc1, // zfs
  0x01021994, // tmpfs
  0x794c7630, // overlayfs
]);

export interface SoleWriterOptions {
  /** The folder that has a folder for each living writer. */
  readonly folder: string;
  readonly own: string;
  /** False where others may write without a folder of theirs. */
  readonly mayBeAlone: boolean;
  readonly calls: PathCalls;
  nowMs(): number;
  /** Called when the last other writer has gone. */
  onAlone(): void;
}

/**
 * Knows whether this process is the only one that stores into a folder. Then its index alone can tell that a block is not there, and a miss
 * costs no system call. It is wrong for at most POLL_MS, and a new writer waits NOTICE_MS before it stores; what a wrong answer would cost
 * is one recomputed block. On file systems that other hosts write it never claims to be alone.
 */
export class SoleWriter {
  readonly #options: SoleWriterOptions;
  #alone = false;
  #pollTimer: NodeJS.Timeout | undefined;
  #heartbeatTimer: NodeJS.Timeout | undefined;
  #polling = false;
  #beating = false;

  constructor(options: SoleWriterOptions) {
    this.#options = options;
  }

  get alone(): boolean {
    return this.#alone;
  }

  /** Looks once, then keeps looking. */
  async start(): Promise<void> {
    this.#heartbeatTimer = setInterval(() => void this.#heartbeat(), HEARTBEAT_MS);
    this.#heartbeatTimer.unref();
    if (!this.#options.mayBeAlone) return;
    if (!LOCAL_FILE_SYSTEMS.has(await this.#options.calls.fileSystem(this.#options.folder))) return;
    await this.#poll();
    this.#pollTimer = setInterval(() => void this.#poll(), POLL_MS);
    this.#pollTimer.unref();
  }

  stop(): void {
    clearInterval(this.#pollTimer);
    clearInterval(this.#heartbeatTimer);
    this.#alone = false;
  }

  async #heartbeat(): Promise<void> {
    if (this.#beating) return; // of a file system that hangs, one thread is enough
    this.#beating = true;
    const { folder, own, calls, nowMs } = this.#options;
    await calls.touch(join(folder, own), nowMs()).catch(() => {}); // the next one may pass
    this.#beating = false;
  }

  async #poll(): Promise<void> {
    if (this.#polling) return; // a slow file system: the last look is still under way
    this.#polling = true;
    try {
      const { folder, own, calls, nowMs } = this.#options;
      const others = await livingWriters(folder, own, nowMs(), calls);
      const before = this.#alone;
      this.#alone = others.length === 0;
      if (this.#alone && !before) this.#options.onAlone();
    } catch {
      this.#alone = false; // cannot tell
    } finally {
      this.#polling = false;
    }
  }
}

import type { FileStore } from "@kvferry/native";

/** How often a folder is touched. Once would do, but for a node that changes the folder itself in the very tick of the touch. */
const TOUCHES = 2;
/** A file system that hangs is not waited for. */
const TOUCH_MS = 10_000;

export interface ToucherOptions {
  readonly files: Pick<FileStore, "stampFolders">;
  /** More than a tick of the clock by which the server stamps folders. */
  readonly delayMs: number;
}

/**
 * Gives folders in which blocks were stored a new time, a little later. Kernels of other hosts learn from a folder's change time alone that a
 * name which they hold for missing is there; if it was made within the same tick of the server's clock as the change that they have seen last, they
 * would never learn it. Another change in a later tick tells them, whatever they, or other programs there, had asked in between. (A kernel takes
 * no notice of changes that it made itself: only whoever stores can do this, not whoever looks.)
 */
export class Toucher {
  readonly #options: ToucherOptions;
  /** Folders, and how often each is still to be touched. */
  readonly #due: Map<string, number> = new Map();
  #timer: NodeJS.Timeout | undefined;
  /** Until the time that is under way has ended. */
  #touching: Promise<void> | undefined;
  #closing = false;

  constructor(options: ToucherOptions) {
    this.#options = options;
  }

  touchLater(folders: Iterable<string>): void {
    for (const folder of folders) this.#due.set(folder, TOUCHES);
    this.#start();
  }

  /** Touches what is due a last time. */
  async close(): Promise<void> {
    this.#closing = true;
    clearTimeout(this.#timer);
    await this.#touching;
    if (this.#due.size === 0) return;
    await new Promise((resolve) => setTimeout(resolve, this.#options.delayMs));
    this.#touch();
    await this.#touching;
  }

  /** One time after the other: on a slow server they would pile up, and what was stored last would have to wait for all of them. */
  #start(): void {
    if (this.#due.size === 0 || this.#timer !== undefined || this.#touching !== undefined || this.#closing) return;
    // nodes that store at the same time must not touch at the same time
    this.#timer = setTimeout(() => this.#touch(), this.#options.delayMs * (1 + Math.random()));
  }

  #touch(): void {
    this.#timer = undefined;
    const folders = [...this.#due.keys()];
    for (const [folder, left] of this.#due) {
      if (left > 1) this.#due.set(folder, left - 1);
      else this.#due.delete(folder);
    }
    this.#touching = this.#options.files
      .stampFolders(folders, true, AbortSignal.timeout(TOUCH_MS))
      .catch(() => {}) // the storage is in trouble: then other hosts may miss a block, and compute it again
      .then(() => {
        this.#touching = undefined;
        this.#start();
      });
  }
}

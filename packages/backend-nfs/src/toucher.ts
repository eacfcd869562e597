import type { FileStore } from "@kvferry/native";

export interface ToucherOptions {
  readonly files: Pick<FileStore, "stampFolders">;
  /** More than a tick of the clock by which the server stamps folders. */
  readonly delayMs: number;
}

/**
 * Gives folders in which blocks were stored a new time, a little later. Kernels of other hosts learn from a folder's change time alone that a
 * name which they hold for missing is there; if it was made within the same tick of the server's clock as the change that they have seen last, they
 * would never learn it. A second change in a later tick tells them, whatever they, or other programs there, had asked in between. (Our own
 * kernel takes no notice of changes that it made itself: only whoever stores can do this, not whoever looks.)
 */
export class Toucher {
  readonly #options: ToucherOptions;
  #folders: Set<string> = new Set();
  #timer: NodeJS.Timeout | undefined;
  #touching: Promise<void> = Promise.resolve();

  constructor(options: ToucherOptions) {
    this.#options = options;
  }

  touchLater(folders: Iterable<string>): void {
    for (const folder of folders) this.#folders.add(folder);
    if (this.#folders.size > 0) this.#timer ??= setTimeout(() => this.#touch(), this.#options.delayMs);
  }

  /** Touches what still has to be touched, in its time. */
  async close(): Promise<void> {
    while (this.#timer !== undefined) {
      await new Promise((resolve) => setTimeout(resolve, this.#options.delayMs));
      await this.#touching;
    }
    await this.#touching;
  }

  #touch(): void {
    const folders = [...this.#folders];
    this.#folders = new Set();
    this.#timer = undefined;
    this.#touching = this.#options.files.stampFolders(folders, true).then(
      () => {},
      () => {}, // storage is in trouble: what other hosts see of it later is what a lost block costs
    );
  }
}

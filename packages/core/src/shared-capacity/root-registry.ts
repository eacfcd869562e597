import type { SharedRoot } from "./shared-root.js";

/** A share in a root, and what was opened for it. */
export interface OpenRoot {
  readonly shared: SharedRoot;
  close(): Promise<void>;
}

interface Registered {
  readonly opening: Promise<OpenRoot>;
  users: number;
}

/** The roots that this process takes part in: one share a place, for all who ask, as the first one has configured it. */
export class RootRegistry {
  readonly #roots: Map<string, Registered> = new Map();

  /** Given back by `release`. Rejects as `open` does. */
  async acquire(place: string, open: () => Promise<OpenRoot>): Promise<SharedRoot> {
    let entry = this.#roots.get(place);
    if (entry === undefined) {
      entry = { opening: open(), users: 0 };
      this.#roots.set(place, entry);
    }
    entry.users++;
    try {
      return (await entry.opening).shared;
    } catch (thrown) {
      this.#roots.delete(place);
      throw thrown;
    }
  }

  async release(shared: SharedRoot): Promise<void> {
    for (const [place, entry] of this.#roots) {
      const root = await entry.opening.catch(() => undefined);
      if (root?.shared !== shared) continue;
      entry.users--;
      if (entry.users > 0) return;
      this.#roots.delete(place);
      await root.close();
    }
  }
}

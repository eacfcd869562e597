import type { CallOptions } from "../call.js";
import type { KeyBatch } from "../keys.js";
import type { BatchResult } from "../outcomes.js";
import type { Region } from "../region.js";

/** Blocks that a backend is about to let go of, to make room. Lookups and loads do not find them any more. */
export interface LeavingBlocks {
  readonly keys: KeyBatch;
  /** As long as it is not aborted nobody waits for the room, and a listener may wait for memory to copy to. Undefined: somebody waits. */
  readonly patience?: AbortSignal | undefined;
  /** Loads the keys at `positions` into slots of a region, as `OffloadBackend.load` does. Only until the listener's promise settles. */
  load(positions: Uint32Array, region: Region, slots: Uint32Array, options?: CallOptions): Promise<BatchResult>;
}

/** The blocks stay until the promise settles, and whoever needs their room waits for it: take a copy, and no more. A source may give up on one that takes
 * too long: `load` then answers MISS. */
export type EvictingListener = (leaving: LeavingBlocks) => Promise<void>;

/** A backend that makes room by itself and lets others copy the blocks before they go. Afterwards it announces them as "evicted". */
export interface EvictionSource {
  /** Returns the way to stop listening. */
  onEvicting(listener: EvictingListener): () => void;
}

/** For authors of an `EvictionSource`: its listeners. */
export class EvictingListeners {
  readonly #listeners: Set<EvictingListener> = new Set();

  get size(): number {
    return this.#listeners.size;
  }

  add(listener: EvictingListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Settles when every listener has what it wants; one that throws keeps nobody from making room. */
  async tell(leaving: LeavingBlocks): Promise<void> {
    await Promise.allSettled([...this.#listeners].map(async (listener) => listener(leaving)));
  }
}

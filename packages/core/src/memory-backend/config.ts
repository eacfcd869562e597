import { KvferryError } from "../errors.js";

/** One stored block. */
export interface MemoryBlock {
  readonly bytes: Uint8Array;
  readonly storedAtMs: number;
  usedAtMs: number;
}

/** The blocks of one namespace, by key (latin1), and the sum of their bytes. */
export interface MemorySpace {
  readonly blocks: Map<string, MemoryBlock>;
  bytes: number;
}

/** What a `MemoryBackend` keeps, outside of it: give one storage to several backends, or to the next after a "restart", and
 * they see the same blocks. By namespace digest (hex). */
export type MemoryStorage = Map<string, MemorySpace>;

export interface MemoryConfig {
  /** Bytes of blocks, at most, in the namespace; stores beyond it are DROPPED with NO_SPACE. Default: no bound. */
  readonly capacityBytes?: number | undefined;
  /** Where blocks are kept; default: a storage of this backend's own, gone when it is closed. */
  readonly storage?: MemoryStorage | undefined;
}

/** An empty storage to share. */
export function createMemoryStorage(): MemoryStorage {
  return new Map();
}

/** @throws KvferryError CONFIG_INVALID with `context.field`. */
export function checkMemoryConfig({ capacityBytes }: MemoryConfig): void {
  if (capacityBytes === undefined || (Number.isSafeInteger(capacityBytes) && capacityBytes >= 0)) return;
  throw new KvferryError("CONFIG_INVALID", `memory: capacityBytes must be a whole number, got ${capacityBytes}`, {
    operation: "config",
    context: { field: "capacityBytes" },
  });
}

import type { KeyBatch, Manifest } from "@kvferry/core";
import type { FileStore } from "@kvferry/native";
import type { ResolvedPosixConfig } from "./config.js";
import type { Presence } from "./presence.js";

/** Finds blocks that the presence index does not know. Without one, every such key is asked of the file system. */
export interface BlockFinder {
  /** Whether it knows, without I/O, that the blocks at all these positions are not there. */
  knowsMissing(keys: KeyBatch, positions: readonly number[]): boolean;
  /** One byte a key: 1 where its block is there. Rejects with a KvferryError when the file system cannot tell. */
  find(keys: KeyBatch, signal: AbortSignal | undefined): Promise<Uint8Array>;
  /** This process has stored these blocks. */
  noteStored(keys: KeyBatch): void;
  /** The presence index was emptied: what rests on it is not known any more. */
  forget(): void;
  close(): Promise<void>;
}

/** What a finder works with. */
export interface FinderParts {
  readonly config: ResolvedPosixConfig;
  readonly files: FileStore;
  /** Where it notes what it finds. */
  readonly presence: Presence;
}

/** What a file system that several hosts write does in its own way; for the backends built on this one. */
export interface FileSystemHabits {
  readonly manifest: Manifest;
  /** Looks at the root before anything is made in it. Rejects with a KvferryError if it cannot be used. */
  checkRoot?(root: string): Promise<void>;
  createFinder?(parts: FinderParts): BlockFinder;
}

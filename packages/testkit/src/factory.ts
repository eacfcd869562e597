import type { OffloadBackend } from "@kvferry/core";

/** What the kit asks for; the backend is opened by the kit, with these sizes. */
export interface CreateOptions {
  readonly blockBytes: number;
  readonly keyBytes: number;
}

/** The hooks that damage what a backend has stored. `backend.context` (namespace, sizes) of the backend that the hooks came with says
 * where a block lies. They act while the backend is open. */
export interface DamageHooks {
  /** Inverts the lowest bit of one byte of the stored block; `byteOffset` counts from the first stored byte. */
  flip?(key: Uint8Array, byteOffset: number): Promise<void>;
  /** Shortens the stored block to its first `bytes` bytes. */
  truncate?(key: Uint8Array, bytes: number): Promise<void>;
  /** Leaves behind what a writer leaves that dies in the middle of a store. */
  leaveTempFile?(): Promise<void>;
  /** From now on the storage has no room for another block, until `restore`. */
  noSpace?(): Promise<void>;
  /** From now on the storage may not be written, until `restore`. */
  denyPermission?(): Promise<void>;
  /** Takes `noSpace` and `denyPermission` back. */
  restore?(): Promise<void>;
  /** Bytes that a block has on storage; default: those of docs/block-format.md. Flips cover all of them. */
  storedBytes?(blockBytes: number): number;
  /** Why a hook cannot exist for this backend, here: its tests are shown as skipped with this reason. */
  readonly impossible?: Partial<Readonly<Record<DamageHookName, string>>>;
}

export type DamageHookName = "flip" | "truncate" | "leaveTempFile" | "noSpace" | "denyPermission";

/** One storage, empty, with one backend over it that has not been opened. */
export interface CreatedBackend {
  readonly backend: OffloadBackend;
  /** Another instance over the same storage, not opened. Required where the manifest says `durable` or `sharedAcrossHosts`. */
  reopen?(): Promise<OffloadBackend>;
  /** Required where the manifest says `durable` and `verifiesPayload`. */
  readonly damage?: DamageHooks | undefined;
  /** Why a key can hold the block of one namespace only, if so: the last one that stored it has it, and the others have a MISS. */
  readonly oneNamespaceAKey?: string | undefined;
  /** Removes the storage. Called after every backend over it has been closed; also when the test has failed. */
  cleanup(): Promise<void>;
}

/** How the kit gets a backend: once a test, sometimes more often. */
export interface BackendFactory {
  create(options: CreateOptions): Promise<CreatedBackend>;
}

import { KEY_BYTES_MAX } from "./keys.js";

/** What a backend can do. True: the conformance kit tests it. False: the call throws UNSUPPORTED. */
export interface Capabilities {
  /** `scan` lists every block. */
  readonly scan: boolean;
  /** `remove` deletes blocks. */
  readonly remove: boolean;
  /** `usage` counts bytes and blocks. */
  readonly usage: boolean;
  /** Bytes move between region and storage without a copy in user space. */
  readonly zeroCopy: boolean;
  /** A store or load can be left alone at its deadline. From the moment that its signal is aborted (the listeners have returned) its I/O
   * neither reads nor writes a slot, a key or anything else of the caller's, however long that I/O hangs; and the call ends at
   * once. Backends that move bytes through buffers of their own can promise this; one that lets the kernel
   * write into a slot cannot. */
  readonly abandonable: boolean;
  /** A block stored by one host is found by others. */
  readonly sharedAcrossHosts: boolean;
  /** A stored block is there after the process has ended. */
  readonly durable: boolean;
  /** Every load checks its bytes; damage is CORRUPT, never LOADED. */
  readonly verifiesPayload: boolean;
}

/** What a backend can take. Calls beyond a limit are refused before they reach it. */
export interface Limits {
  readonly batchKeysMax: number;
  readonly blockBytesMin: number;
  readonly blockBytesMax: number;
  readonly keyBytesMax: number;
}

export interface Manifest {
  /** Short, stable, lower-case: "posix", "memory". Used in metrics and configuration. */
  readonly name: string;
  readonly capabilities: Capabilities;
  readonly limits: Limits;
}

export interface ManifestInput {
  readonly name: string;
  readonly capabilities?: Partial<Capabilities>;
  readonly limits?: Partial<Limits>;
}

/** Every capability by name, in a fixed order. */
export const CAPABILITY_NAMES: readonly (keyof Capabilities)[] = Object.freeze([
  "scan",
  "remove",
  "usage",
  "zeroCopy",
  "abandonable",
  "sharedAcrossHosts",
  "durable",
  "verifiesPayload",
] as const);

/** A frozen manifest; what is left out is false, or the widest limit. */
export function defineManifest(input: ManifestInput): Manifest {
  const capabilities = Object.fromEntries(
    CAPABILITY_NAMES.map((name) => [name, input.capabilities?.[name] ?? false]),
  ) as unknown as Capabilities;
  const limits: Limits = {
    batchKeysMax: 65_536,
    blockBytesMin: 1,
    blockBytesMax: 2 ** 31 - 4096 - 4096,
    keyBytesMax: KEY_BYTES_MAX,
    ...input.limits,
  };
  return Object.freeze({
    name: input.name,
    capabilities: Object.freeze(capabilities),
    limits: Object.freeze(limits),
  });
}

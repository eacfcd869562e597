import type { Namespace, OffloadBackend } from "@kvferry/core";
import type { NamespaceShape } from "../namespaces.js";

/** Blocks that wait for the data plane, by operation, and those being moved. */
export interface TierQueue {
  readonly loads: number;
  readonly stores: number;
  readonly running: number;
}

/** A namespace that has, or had, blocks in a tier. */
export interface StoredNamespace extends NamespaceShape {
  readonly namespace: Namespace;
}

/** One configured tier: what its namespaces share, and how a namespace's backend is made. */
export interface TierRuntime {
  /** For metrics and status. */
  readonly name: string;
  readonly backend: string;
  /** Where its blocks are, for people; undefined for memory. */
  readonly place: string | undefined;
  /** Bytes that the whole tier may take. */
  readonly capacityBytes: number | undefined;
  /** The bare backend of a namespace, without layers. */
  createBackend(namespace: Namespace, shape: NamespaceShape): OffloadBackend;
  /** What is there, whether an engine asks for it or not; empty for memory. */
  namespaces(): Promise<readonly StoredNamespace[]>;
  /** Blocks of a size that it surely takes now without giving up others; left out where it cannot tell. */
  roomBlocks?(blockBytes: number): number;
  /** undefined where there is no queue of ours. */
  queue(): TierQueue | undefined;
  /** Counters of the tier as a whole by name, without the prefix `kvferry_`; they only rise. */
  counters(): Readonly<Record<string, number>>;
  /** As `counters`, for what rises and falls. */
  gauges(): Readonly<Record<string, number>>;
  /** Why the storage cannot be used now, or undefined when it can. May hang where the storage does. */
  problem(): Promise<string | undefined>;
  /** After all backends have been closed. */
  close(): Promise<void>;
}

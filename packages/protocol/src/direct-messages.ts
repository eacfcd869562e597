import type { BatchResult } from "@kvferry/core";
import type { HelloFields } from "./messages.js";

/** Memories of a worker that the server opens. Memory number i of a tensor is `memories[i]`. */
export type DirectMemory =
  | { readonly kind: "process"; readonly memories: readonly { readonly address: number; readonly bytes: number }[] }
  | {
      readonly kind: "cuda";
      /** 16 bytes. */
      readonly uuid: Uint8Array;
      /** `handle`: 64 bytes. */
      readonly memories: readonly { readonly handle: Uint8Array; readonly offset: number; readonly bytes: number }[];
    }
  /** A descriptor each, with the message. */
  | { readonly kind: "region"; readonly memories: readonly { readonly bytes: number }[] };

/** Page p of a tensor is at `offset + p × strideBytes` of its memory; `pageBytes` of it are a chunk's. */
export interface DirectTensor {
  readonly memory: number;
  readonly offset: number;
  readonly strideBytes: number;
  readonly pageBytes: number;
  readonly pages: number;
}

/** Of each page of a tensor the group uses the first `bytes`. */
export interface DirectGroupTensor {
  readonly tensor: number;
  readonly bytes: number;
}

/** What all connections of an engine say alike. */
export interface DirectEngineFields {
  /** Unique to this engine. */
  readonly engine: string;
  /** Of a chunk, one a worker. */
  readonly parts: number;
  readonly partBytes: number;
}

export interface DirectScheduler extends DirectEngineFields {
  readonly role: "scheduler";
  /** Connections of workers that the engine has. Until they are there, HOLD gives FAILED(BUSY). */
  readonly workers: number;
}

export interface DirectWorker extends DirectEngineFields {
  readonly role: "worker";
  /** Which part is this worker's, from 0. */
  readonly part: number;
  /** false: it only loads. */
  readonly stores: boolean;
  readonly memory: DirectMemory;
  readonly tensors: readonly DirectTensor[];
  readonly groups: readonly (readonly DirectGroupTensor[])[];
  readonly blocksPerChunk: number;
}

/** HELLO of an engine in direct mode. */
export interface DirectHelloMessage extends HelloFields {
  readonly direct: DirectScheduler | DirectWorker;
}

/** In WELCOME. */
export interface DirectWelcome {
  /** Names this arena, of this run of the server. */
  readonly instance: string;
  readonly arenaBytes: number;
}

export interface HoldMessage {
  readonly t: "hold";
  readonly id: number;
  readonly keys: Uint8Array;
}

/** Takes back one HOLD of each key; has no answer. */
export interface ReleaseMessage {
  readonly t: "release";
  readonly keys: Uint8Array;
}

/** Chunks to copy. */
export interface ChunksFields {
  readonly id: number;
  readonly keys: Uint8Array;
  /** Each chunk's group: an index of HELLO's groups. */
  readonly groups: Uint32Array;
  /** Count × blocksPerChunk: page numbers, 2^32−1 for one that is not there. */
  readonly blocks: Uint32Array;
}

export interface GatherMessage extends ChunksFields {
  readonly t: "gather";
  /** One a batch of chunks; all workers use the same for the same keys in the same order. */
  readonly ticket: number;
}

export interface ScatterMessage extends ChunksFields {
  readonly t: "scatter";
}

/** The answer to HOLD: LOADED is held. */
export interface HeldMessage extends BatchResult {
  readonly t: "held";
  readonly id: number;
  /** Bytes from the arena's beginning, for each key that is held; 0 for others. */
  readonly offsets: Float64Array;
  /** Microseconds from the request's arrival to its end. */
  readonly us: number;
}

/** What the tiers have answered for the chunks of a ticket. */
export interface StoredMessage extends BatchResult {
  readonly t: "stored";
  readonly ticket: number;
}

/** Page number of a page that is not there: it is not copied. */
export const NO_BLOCK = 0xffff_ffff;

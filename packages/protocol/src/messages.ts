import type { BatchResult, ErrorCode, NamespaceFields, RemovalReason } from "@kvferry/core";
import type {
  DirectHelloMessage,
  DirectWelcome,
  GatherMessage,
  HeldMessage,
  HoldMessage,
  ReleaseMessage,
  ScatterMessage,
  StoredMessage,
} from "./direct-messages.js";

/** Who connects: texts for logs. */
export interface ClientIdentity {
  readonly name: string;
  readonly version: string;
  /** Unique to this engine. */
  readonly instance: string;
}

/** A region as HELLO describes it. With a descriptor in the message the path is not used. */
export interface RegionDescription {
  readonly bytes: number;
  readonly path?: string;
}

/** Where the bytes of a slot are: slot i at `offset + i × stride` of the region. */
export interface Fragment {
  readonly region: 0;
  readonly offset: number;
  readonly stride: number;
  readonly bytes: number;
}

/** vLLM's own names for a cache, for the layout `vllm-fs`. */
export interface VllmFsNames {
  readonly base: string;
  readonly rank: number;
  readonly config: string;
}

/** What every HELLO says. */
export interface HelloFields {
  readonly t: "hello";
  /** The highest protocol version that the client speaks. */
  readonly version: number;
  readonly client: ClientIdentity;
  /** As it came: `createNamespace` of @kvferry/core checks it. */
  readonly namespace: NamespaceFields | Readonly<Record<string, unknown>>;
  readonly keyBytes: number;
  readonly blockBytes: number;
  readonly vllmFs: VllmFsNames | null;
  /** Whether REMOVED is wanted. */
  readonly events: boolean;
}

/** HELLO of an engine with a region of its own. */
export interface HelloMessage extends HelloFields {
  readonly regions: readonly [RegionDescription];
  readonly fragments: readonly [Fragment];
  readonly slots: number;
}

/** Instead of HELLO: asks the server to put the hottest blocks of its slower tiers into the faster ones. The end of the stream ends it. */
export interface WarmMessage {
  readonly t: "warm";
  readonly version: number;
  /** Payload bytes, at most; null: as much as has room. */
  readonly bytes: number | null;
  /** Payload bytes a second, at most; null: no bound. */
  readonly rate: number | null;
  /** First digits of a namespace's digest; "" for all. */
  readonly namespace: string;
}

export interface LookupMessage {
  readonly t: "lookup";
  readonly id: number;
  /** Packed: count × keyBytes. */
  readonly keys: Uint8Array;
}

export interface StoreMessage {
  readonly t: "store";
  readonly id: number;
  readonly keys: Uint8Array;
  readonly slots: Uint32Array;
}

export interface LoadMessage {
  readonly t: "load";
  readonly id: number;
  readonly keys: Uint8Array;
  readonly slots: Uint32Array;
}

export interface CancelMessage {
  readonly t: "cancel";
  readonly id: number;
  /** The id of the request to cancel. */
  readonly target: number;
}

export interface PingMessage {
  readonly t: "ping";
  readonly id: number;
}

/** Of direct mode. */
export type DirectRequestMessage = HoldMessage | ReleaseMessage | GatherMessage | ScatterMessage;
export type RequestMessage =
  | LookupMessage
  | StoreMessage
  | LoadMessage
  | DirectRequestMessage
  | CancelMessage
  | PingMessage;
export type ClientMessage = HelloMessage | DirectHelloMessage | WarmMessage | RequestMessage;

export interface WelcomeMessage {
  readonly t: "welcome";
  readonly version: number;
  readonly server: { readonly name: string; readonly version: string; readonly pid: number };
  /** Hex digest of the namespace. */
  readonly digest: string;
  readonly requestsMax: number;
  readonly batchKeysMax: number;
  /** In direct mode. A worker's WELCOME carries a descriptor: the arena, for reading. */
  readonly direct?: DirectWelcome;
}

export interface StatesMessage {
  readonly t: "states";
  readonly id: number;
  /** A `LookupState` for each key. */
  readonly states: Uint8Array;
}

/** `outcomes` and `codes` as in `BatchResult`. */
export interface DoneMessage extends BatchResult {
  readonly t: "done";
  readonly id: number;
  /** Microseconds from the request's arrival to its end. */
  readonly us: number;
}

export interface PongMessage {
  readonly t: "pong";
  readonly id: number;
}

export interface RemovedMessage {
  readonly t: "removed";
  readonly keys: Uint8Array;
  readonly reason: RemovalReason;
}

export interface DrainMessage {
  readonly t: "drain";
}

/** How far the warming is; comes again and again, and the last one is done. */
export interface WarmingMessage {
  readonly t: "warming";
  readonly done: boolean;
  /** listing, loading, done, full, bytes, stopped, failed. */
  readonly state: string;
  /** Since it began. */
  readonly ms: number;
  /** Numbers by name: of blocks, bytes and namespaces. */
  readonly counts: Readonly<Record<string, number>>;
  /** Blocks put into each tier, by its name. */
  readonly tiers: Readonly<Record<string, number>>;
}

/** With `id` that request has failed as a whole; without, the connection is over. */
export interface ErrorMessage {
  readonly t: "error";
  readonly id?: number;
  readonly code: ErrorCode;
  readonly message: string;
  readonly context: Readonly<Record<string, unknown>>;
}

export type ServerMessage =
  | WelcomeMessage
  | StatesMessage
  | DoneMessage
  | HeldMessage
  | StoredMessage
  | PongMessage
  | RemovedMessage
  | WarmingMessage
  | DrainMessage
  | ErrorMessage;

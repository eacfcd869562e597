import { createNamespace, type KeyBatch, type Namespace, type OffloadBackend } from "@kvferry/core";
import type { PeerCredentials } from "@kvferry/native";
import { type HelloFields, PROTOCOL_VERSION, type ServerMessage, type WelcomeMessage } from "@kvferry/protocol";
import type { NamespaceLease, NamespacePool } from "./namespaces.js";
import type { SessionRequests } from "./requests/session-requests.js";
import type { SessionContext } from "./session.js";

/** A session's connection, as what it was opened for sees it. */
export interface SessionLink {
  readonly peer: PeerCredentials;
  send(message: ServerMessage): void;
}

/** What HELLO was answered with, by the kind of the session. */
export interface OpenedSession {
  readonly namespace: Namespace;
  readonly requests: SessionRequests;
  readonly welcome: WelcomeMessage;
  /** Descriptors that go with WELCOME; they stay the server's. */
  readonly fds: readonly number[];
  /** For the status and the log. */
  readonly facts: Readonly<Record<string, string | number | boolean>>;
  /** Gives back what the session has. No request is under way. After it no byte of the client's memory moves. */
  close(): Promise<void>;
}

/** Keys of a REMOVED message. */
const REMOVED_KEYS_MAX = 65_536;

/** Opens the namespace that HELLO names.
 * @throws KvferryError as `NamespacePool.acquire`; INVALID_ARGUMENT for fields of the namespace. */
export function acquireNamespace(namespaces: NamespacePool, hello: HelloFields): Promise<NamespaceLease> {
  const { keyBytes, blockBytes, vllmFs } = hello;
  const shape = { keyBytes, blockBytes, vllmFs: vllmFs ?? undefined };
  return namespaces.acquire(createNamespace(hello.namespace), shape);
}

/** Keys that a store or load may have. */
export function batchKeysMaxOf({ limits }: SessionContext, backend: OffloadBackend): number {
  return Math.min(limits.batchKeysMax, backend.manifest.limits.batchKeysMax);
}

export function welcomeOf(context: SessionContext, { namespace, backend }: NamespaceLease): WelcomeMessage {
  const { identity, limits } = context;
  return {
    t: "welcome",
    version: PROTOCOL_VERSION,
    server: identity,
    digest: namespace.digestHex,
    requestsMax: limits.requestsMax,
    batchKeysMax: batchKeysMaxOf(context, backend),
  };
}

/** Tells a client of blocks that are gone, if it wants to hear of them. Returns the way to stop. */
export function tellRemoved(backend: OffloadBackend, { events }: HelloFields, link: SessionLink): () => void {
  if (!events) return () => {};
  return backend.onRemoved(({ bytes, stride }: KeyBatch, reason) => {
    const step = REMOVED_KEYS_MAX * stride; // however many there are, a frame has its bound
    for (let at = 0; at < bytes.length; at += step) {
      link.send({ t: "removed", keys: bytes.subarray(at, at + step), reason });
    }
  });
}

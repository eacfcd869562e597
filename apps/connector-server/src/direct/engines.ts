import { randomUUID } from "node:crypto";
import { closeSync, openSync } from "node:fs";
import type { HostMemoryBackend } from "@kvferry/backend-host-memory";
import { KvferryError, type Logger } from "@kvferry/core";
import type { DirectHelloMessage, DirectWelcome } from "@kvferry/protocol";
import type { NamespaceLease, NamespaceLoan, NamespacePool } from "../namespaces.js";
import { DirectCounts } from "./counts.js";
import { DirectEngine, type EngineShape } from "./engine.js";
import { DirectStaging } from "./staging.js";

/** Ms that what an engine holds outlives its connections. Workers rely on it: docs/direct-mode.md. */
export const HOLD_GRACE_MS = 60_000;

export interface DirectEnginesOptions {
  readonly namespaces: NamespacePool;
  /** Of each namespace that has engines. */
  readonly stagingBytes: number;
  /** Ms that a request may take. */
  readonly deadlineMs: number;
  /** Bytes that the keys of an engine's open tickets may take. */
  readonly keyBytesMax: number;
  readonly graceMs: number;
  readonly logger: Logger;
}

/** An engine as the status shows it. */
export interface DirectEngineStatus {
  readonly engine: string;
  readonly namespace: string;
  readonly parts: number;
  readonly schedulers: number;
  readonly workers: number;
  readonly heldBlocks: number;
  readonly heldBytes: number;
  /** Batches of chunks that are not stored yet, or that a worker has not come to. */
  readonly tickets: number;
}

interface Entry {
  readonly engine: DirectEngine;
  /** Keeps the namespace open. */
  readonly loan: Promise<NamespaceLoan | undefined>;
  connections: number;
  timer: NodeJS.Timeout | undefined;
}

interface SharedStaging {
  readonly staging: DirectStaging;
  engines: number;
}

/** The engines in direct mode, and the arena that they share. */
export class DirectEngines {
  readonly counts: DirectCounts = new DirectCounts();
  readonly #options: DirectEnginesOptions;
  readonly #entries: Map<string, Entry> = new Map();
  /** By namespace. */
  readonly #staging: Map<string, SharedStaging> = new Map();
  readonly #ending: Set<Promise<void>> = new Set();
  readonly #instance: string = randomUUID();
  #arenaFd: number | undefined;
  #isEnding = false;

  constructor(options: DirectEnginesOptions) {
    this.#options = options;
  }

  get status(): readonly DirectEngineStatus[] {
    return [...this.#entries.values()].map(({ engine }) => {
      const { engine: name, namespace, parts, blockBytes } = engine.shape;
      const { status } = engine;
      return { engine: name, namespace, parts, ...status, heldBytes: status.heldBlocks * blockBytes };
    });
  }

  /** Rows of all namespaces' staging memory. */
  get stagingRows(): { readonly used: number; readonly all: number } {
    const rows = { used: 0, all: 0 };
    for (const { staging } of this.#staging.values()) {
      rows.used += staging.usedRows;
      rows.all += staging.rows;
    }
    return rows;
  }

  /** Adds a connection to its engine, which it makes if it is the first.
   * @throws KvferryError INVALID_ARGUMENT with `context.field` where it says other than the engine's others, UNAVAILABLE when the server is about to end. */
  join(hello: DirectHelloMessage, lease: NamespaceLease, memory: HostMemoryBackend): DirectEngine {
    if (this.#isEnding) throw new KvferryError("UNAVAILABLE", "the server is about to end", { operation: "hello" });
    const { engine, parts, partBytes } = hello.direct;
    const { keyBytes, blockBytes } = hello;
    const shape = { engine, namespace: lease.namespace.digestHex, keyBytes, blockBytes, parts, partBytes };
    const entry = this.#entries.get(engine) ?? this.#begin(shape, lease, memory);
    checkSameShape(entry.engine.shape, shape);
    entry.connections++;
    clearTimeout(entry.timer);
    return entry.engine;
  }

  /** A connection has ended. What its engine holds stays for a while after the last one. */
  leave(engine: DirectEngine): void {
    const entry = this.#entries.get(engine.shape.engine);
    if (entry?.engine !== engine || --entry.connections > 0) return;
    engine.disconnected();
    if (this.#isEnding) return;
    if (engine.status.heldBlocks === 0) {
      this.#end(entry);
      return;
    }
    entry.timer = setTimeout(() => this.#end(entry), this.#options.graceMs);
    entry.timer.unref();
  }

  /** What WELCOME says of the arena. */
  welcome({ arena }: HostMemoryBackend): DirectWelcome {
    return { instance: this.#instance, arenaBytes: arena.region.mappedBytes };
  }

  /** A descriptor of the arena that nothing can be written through. It stays the server's. */
  arenaFd({ arena }: HostMemoryBackend): number {
    this.#arenaFd ??= openSync(`/proc/self/fd/${arena.region.fd}`, "r");
    return this.#arenaFd;
  }

  /** The server is about to end. What is held stays held: workers may still copy out of the arena, even after the end. */
  drain(): void {
    this.#isEnding = true;
    for (const { timer } of this.#entries.values()) clearTimeout(timer);
  }

  /** After all namespaces have been closed. */
  async close(): Promise<void> {
    await Promise.all(this.#ending);
    for (const { staging } of this.#staging.values()) staging.close();
    this.#staging.clear();
    this.#entries.clear();
    if (this.#arenaFd !== undefined) closeSync(this.#arenaFd);
    this.#arenaFd = undefined;
  }

  #begin(shape: EngineShape, { namespace, storage }: NamespaceLease, memory: HostMemoryBackend): Entry {
    const { namespaces, deadlineMs, keyBytesMax, logger } = this.#options;
    const { staging } = this.#useStaging(shape);
    const engine = new DirectEngine({ shape, memory, storage, staging, counts: this.counts, deadlineMs, keyBytesMax });
    const loan = namespaces.borrowOpen(namespace).catch(() => undefined);
    const entry = { engine, loan, connections: 0, timer: undefined };
    this.#entries.set(shape.engine, entry);
    logger.info({ engine: shape.engine, namespace: shape.namespace, parts: shape.parts }, "an engine in direct mode");
    return entry;
  }

  #useStaging({ namespace, blockBytes }: EngineShape): SharedStaging {
    const shared = this.#staging.get(namespace) ?? {
      staging: new DirectStaging(blockBytes, this.#options.stagingBytes),
      engines: 0,
    };
    this.#staging.set(namespace, shared);
    shared.engines++;
    return shared;
  }

  #end(entry: Entry): void {
    this.#entries.delete(entry.engine.shape.engine);
    const ending: Promise<void> = this.#runEnd(entry).finally(() => this.#ending.delete(ending));
    this.#ending.add(ending);
  }

  async #runEnd({ engine, loan }: Entry): Promise<void> {
    const { engine: name, namespace } = engine.shape;
    const { heldBlocks } = engine.status;
    this.#options.logger.info({ engine: name, namespace, heldBlocks }, "an engine in direct mode is gone");
    await engine.end();
    const shared = this.#staging.get(namespace) as SharedStaging;
    if (--shared.engines === 0) {
      this.#staging.delete(namespace);
      shared.staging.close();
    }
    (await loan)?.giveBack(false);
  }
}

function checkSameShape(first: EngineShape, other: EngineShape): void {
  for (const [name, field] of FIELDS) {
    if (first[name] === other[name]) continue;
    throw new KvferryError(
      "INVALID_ARGUMENT",
      `'${field}' is ${other[name]}; other connections of engine '${first.engine}' say ${first[name]}`,
      { operation: "hello", context: { field } },
    );
  }
}

const FIELDS: readonly (readonly [keyof EngineShape, string])[] = [
  ["namespace", "namespace"],
  ["keyBytes", "keyBytes"],
  ["blockBytes", "blockBytes"],
  ["parts", "direct.parts"],
  ["partBytes", "direct.partBytes"],
];

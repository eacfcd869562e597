import {
  type Clock,
  KvferryError,
  type Logger,
  type Namespace,
  type OffloadBackend,
  systemClock,
  toKvferryError,
} from "@kvferry/core";
import type { VllmFsNames } from "@kvferry/protocol";
import type { NamespaceStorage } from "./storage/storage.js";

/** What a client says about the blocks of a namespace; all clients of one say the same. */
export interface NamespaceShape {
  readonly keyBytes: number;
  readonly blockBytes: number;
  readonly vllmFs: VllmFsNames | undefined;
}

/** Makes the backend of a namespace. It is not opened yet; the server opens and closes it. */
export type BackendFactory = (namespace: Namespace, shape: NamespaceShape) => OffloadBackend;

export interface PoolOptions {
  /** Makes what serves a namespace, layers and all. */
  readonly createStorage: (namespace: Namespace, shape: NamespaceShape) => NamespaceStorage;
  readonly logger: Logger;
  readonly clock?: Clock;
  /** Ms that a namespace stays open without a session. */
  readonly idleMs: number;
  readonly namespacesMax: number;
}

/** A namespace as the status shows it. */
export interface OpenNamespace {
  readonly namespace: Namespace;
  readonly shape: NamespaceShape;
  readonly storage: NamespaceStorage;
  readonly sessions: number;
}

/** A session's hold on a namespace. */
export interface NamespaceLease {
  readonly namespace: Namespace;
  readonly backend: OffloadBackend;
  readonly storage: NamespaceStorage;
  /** May be called twice. */
  release(): void;
}

/** A namespace that is open for the server itself. */
export interface NamespaceLoan {
  readonly storage: NamespaceStorage;
  /** Whether an earlier loan has kept it open, and no engine has come since. */
  readonly wasKept: boolean;
  /** `keep`: it stays open, for an engine to come, until another namespace needs its place. May be called twice. */
  giveBack(keep: boolean): void;
}

interface Entry extends OpenNamespace {
  shape: NamespaceShape;
  /** No engine has said how vLLM names it. */
  unnamed: boolean;
  /** Held by the server itself. */
  loans: number;
  /** Open without anyone, for an engine to come. */
  kept: boolean;
  readonly opened: Promise<void>;
  sessions: number;
  /** Monotonic ms at which the last session left. */
  idleSinceMs: number;
  timer: NodeJS.Timeout | undefined;
  closing: Promise<void> | undefined;
}

/** One open backend for each namespace, shared by all of its sessions, opened once and closed some time after the last session. */
export class NamespacePool {
  readonly #options: PoolOptions;
  readonly #clock: Clock;
  readonly #entries: Map<string, Entry> = new Map();
  #closed = false;

  constructor(options: PoolOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** Every namespace that is open or being opened. */
  list(): readonly OpenNamespace[] {
    return [...this.#entries.values()].filter(({ closing }) => closing === undefined);
  }

  /** Opens the namespace, or joins those who have it open.
   * @throws KvferryError INVALID_ARGUMENT with `context.field` for another shape than the first session's, BUSY for too many
   * namespaces, or what opening the backend throws. */
  async acquire(namespace: Namespace, shape: NamespaceShape): Promise<NamespaceLease> {
    const key = namespace.digestHex;
    for (;;) {
      if (this.#closed) throw new KvferryError("UNAVAILABLE", "the server is about to end", { operation: "hello" });
      const entry = this.#entries.get(key);
      if (entry?.closing !== undefined) {
        await entry.closing;
        continue;
      }
      if (entry !== undefined) return this.#join(entry, shape);
      const idle = this.#idleToClose();
      if (idle === undefined) return this.#join(this.#open(namespace, shape, false), shape);
      await this.#close(idle);
    }
  }

  /** Opens a namespace without an engine; closes no other one for it.
   * @returns undefined where there is no place for it, or it is about to close. */
  async borrow(namespace: Namespace, shape: NamespaceShape): Promise<NamespaceLoan | undefined> {
    const known = this.#entries.get(namespace.digestHex);
    if (this.#closed || known?.closing !== undefined) return undefined;
    if (known === undefined && this.#entries.size >= this.#options.namespacesMax) return undefined;
    const entry = known ?? this.#open(namespace, shape, shape.vllmFs === undefined);
    const leave = await this.#hold(entry, "loans");
    return { storage: entry.storage, wasKept: entry.kept, giveBack: (keep) => leave(keep) };
  }

  /** As `borrow`, for one that is open. */
  async borrowOpen(namespace: Namespace): Promise<NamespaceLoan | undefined> {
    const entry = this.#entries.get(namespace.digestHex);
    return entry === undefined ? undefined : this.borrow(namespace, entry.shape);
  }

  /** Closes all; sessions must have ended. New ones are refused from now on. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#entries.values()].map((entry) => this.#close(entry)));
  }

  async #join(entry: Entry, shape: NamespaceShape): Promise<NamespaceLease> {
    if (entry.unnamed) {
      // no tier needed the names, or it could not have been opened without them
      entry.shape = { ...entry.shape, vllmFs: shape.vllmFs };
      entry.unnamed = false;
    }
    checkSameShape(entry.shape, shape);
    const leave = await this.#hold(entry, "sessions");
    const { namespace, storage } = entry;
    return { namespace, storage, backend: storage.backend, release: () => leave(false) };
  }

  /** Keeps it open. Returns the way to let it go. */
  async #hold(entry: Entry, by: "sessions" | "loans"): Promise<(keep: boolean) => void> {
    entry[by]++;
    clearTimeout(entry.timer);
    try {
      await entry.opened;
    } catch (thrown) {
      throw toKvferryError(thrown, "open");
    }
    let held = true;
    return (keep) => {
      if (!held) return;
      held = false;
      entry[by]--;
      if (entry.sessions + entry.loans === 0) this.#left(entry, keep);
    };
  }

  #open(namespace: Namespace, shape: NamespaceShape, unnamed: boolean): Entry {
    const { logger, createStorage } = this.#options;
    const storage = createStorage(namespace, shape);
    const { backend } = storage;
    const log = { namespace: namespace.digestHex, model: namespace.fields.model };
    const opened = backend.open({ namespace, keyBytes: shape.keyBytes, blockBytes: shape.blockBytes, logger }).then(
      () => logger.info({ ...log, keyBytes: shape.keyBytes, blockBytes: shape.blockBytes }, "opened a namespace"),
      (thrown: unknown) => {
        this.#entries.delete(namespace.digestHex); // the next client tries again
        logger.error({ ...log, error: String(thrown) }, "could not open a namespace");
        throw thrown;
      },
    );
    opened.catch(() => {}); // whoever joins reports it
    const entry: Entry = {
      namespace,
      shape,
      unnamed,
      storage,
      opened,
      sessions: 0,
      loans: 0,
      kept: false,
      idleSinceMs: 0,
      timer: undefined,
      closing: undefined,
    };
    this.#entries.set(namespace.digestHex, entry);
    return entry;
  }

  #left(entry: Entry, keep: boolean): void {
    entry.idleSinceMs = this.#clock.monotonicMs();
    entry.kept = keep;
    if (keep) return;
    entry.timer = setTimeout(() => void this.#close(entry), this.#options.idleMs);
    entry.timer.unref();
  }

  /** The namespace that was left first, if one has to go before another can be opened. */
  #idleToClose(): Entry | undefined {
    if (this.#entries.size < this.#options.namespacesMax) return undefined;
    let oldest: Entry | undefined;
    for (const entry of this.#entries.values()) {
      if (entry.sessions + entry.loans > 0) continue;
      if (oldest === undefined || entry.idleSinceMs < oldest.idleSinceMs) oldest = entry;
    }
    if (oldest !== undefined) return oldest;
    throw new KvferryError(
      "BUSY",
      `${this.#entries.size} namespaces are open, which is as many as limits.namespacesMax allows`,
      {
        operation: "hello",
      },
    );
  }

  #close(entry: Entry): Promise<void> {
    clearTimeout(entry.timer);
    entry.closing ??= this.#runClose(entry);
    return entry.closing;
  }

  async #runClose({ namespace, storage }: Entry): Promise<void> {
    const log = { namespace: namespace.digestHex };
    try {
      await storage.backend.close();
      this.#options.logger.info(log, "closed a namespace");
    } catch (thrown) {
      this.#options.logger.error({ ...log, error: String(thrown) }, "closing a namespace failed");
    } finally {
      this.#entries.delete(namespace.digestHex);
    }
  }
}

function checkSameShape(first: NamespaceShape, other: NamespaceShape): void {
  for (const field of ["keyBytes", "blockBytes"] as const) {
    if (first[field] !== other[field]) throw differs(field, first[field], other[field]);
  }
  for (const field of ["base", "rank"] as const) {
    const [a, b] = [first.vllmFs?.[field], other.vllmFs?.[field]];
    if (a !== b) throw differs(`vllmFs.${field}`, a, b);
  }
}

function differs(field: string, first: unknown, other: unknown): KvferryError {
  return new KvferryError(
    "INVALID_ARGUMENT",
    `'${field}' is ${other}; the engines that share this namespace say ${first}`,
    {
      operation: "hello",
      context: { field },
    },
  );
}

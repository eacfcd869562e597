import { type ErrorCode, KvferryError, toKvferryError } from "./errors.js";
import { KEY_BYTES_MIN, type KeyBatch } from "./keys.js";
import type { Capabilities, Manifest } from "./manifest.js";
import type { Namespace } from "./namespace.js";
import type { BatchResult } from "./outcomes.js";
import type { Region } from "./region.js";
import { type Clock, type Logger, silentLogger, systemClock } from "./runtime.js";

/** Blocks to move: key i belongs to slot `slots[i]` of the region. */
export interface BlockBatch {
  readonly keys: KeyBatch;
  readonly region: Region;
  readonly slots: Uint32Array;
}

export type Priority = "load" | "store";

/** Options of every call. */
export interface CallOptions {
  /** Ends the call early: what has not begun ends as FAILED(ABORTED), what is under way is finished, unless abandonable. */
  readonly signal?: AbortSignal;
  /** Ms from now after which the call ends the same way with FAILED(DEADLINE). */
  readonly deadlineMs?: number;
  /** Loads go before stores; default: what the call is. */
  readonly priority?: Priority;
}

/** What an author's `_` methods receive. */
export interface AuthorOptions {
  /** Aborted by the caller or by the deadline; `abortCode(signal)` says which. */
  readonly signal: AbortSignal | undefined;
  readonly priority: Priority;
}

/** Given to `open`. */
export interface OpenContext {
  readonly namespace: Namespace;
  /** Bytes of one key, the same for all. */
  readonly keyBytes: number;
  /** Bytes of one block, the same for all. */
  readonly blockBytes: number;
  readonly logger?: Logger;
  readonly clock?: Clock;
  readonly signal?: AbortSignal;
}

/** The context as `_open` gets it: everything is there. */
export type AuthorContext = Required<Omit<OpenContext, "signal">> & Pick<OpenContext, "signal">;

export interface ScanEntry {
  readonly key: Uint8Array;
  /** Bytes on storage, everything included. */
  readonly bytes: number;
  /** Wall clock, ms. */
  readonly storedAtMs: number;
  /** Last known use, ms; at least storedAtMs. */
  readonly usedAtMs: number;
}

export interface ScanOptions {
  readonly signal?: AbortSignal;
  /** Entries a page, at most; default 1,024. */
  readonly pageEntriesMax?: number;
}

export interface Usage {
  /** Bytes on storage, everything included. */
  readonly bytes: number;
  readonly blocks: number;
  /** The bound, or undefined where there is none. */
  readonly capacityBytes: number | undefined;
}

/** Why blocks went away without being asked for. */
export type RemovalReason = "evicted" | "corrupt" | "removed";
export type RemovalListener = (keys: KeyBatch, reason: RemovalReason) => void;

type State = "new" | "opening" | "open" | "closing" | "closed";

const SCAN_PAGE_ENTRIES = 1024;

/**
 * Storage for KV blocks. Public methods check and account; an author writes the `_` methods, which get only what the public ones
 * promise: an open backend, keys of `keyBytes`, slots inside the region, batches of 1 to `batchKeysMax` keys.
 *
 * A miss is a value and a failed key is an outcome. A public method throws (rejects) a KvferryError for misuse
 * (INVALID_ARGUMENT, NOT_OPEN, CLOSED, UNSUPPORTED) and for a backend that can do nothing at all.
 * One instance serves one namespace, is opened once and closed once.
 */
export abstract class OffloadBackend {
  /** What this backend can do; data, frozen, the same for its whole life. */
  readonly manifest: Manifest;
  #state: State = "new";
  #context: AuthorContext | undefined;
  #inFlight = 0;
  #idle: (() => void) | undefined;
  #opening: Promise<void> | undefined;
  #closing: Promise<void> | undefined;
  readonly #removalListeners: Set<RemovalListener> = new Set();

  protected constructor(manifest: Manifest) {
    this.manifest = manifest;
  }

  get state(): State {
    return this.#state;
  }

  /** Calls under way. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** The context given to `open`.
   * @throws KvferryError NOT_OPEN before it. */
  get context(): AuthorContext {
    if (this.#context === undefined) throw new KvferryError("NOT_OPEN", `${this.manifest.name}: open() has not been called`);
    return this.#context;
  }

  /** Makes the backend ready; a second call is misuse. After a failure the instance is closed.
   * @throws KvferryError INVALID_ARGUMENT, or what `_open` throws. */
  async open(context: OpenContext): Promise<void> {
    if (this.#state !== "new") {
      throw new KvferryError("INVALID_ARGUMENT", `${this.manifest.name}: open() on a backend that is ${this.#state}`, { operation: "open" });
    }
    this.#checkContext(context);
    this.#state = "opening";
    this.#context = { logger: silentLogger, clock: systemClock, ...context };
    this.#opening = this.#runOpen(this.#context);
    await this.#opening;
  }

  /** One LookupState byte per key, in order. Never touches payloads. */
  async lookup(keys: KeyBatch, options: CallOptions = {}): Promise<Uint8Array> {
    this.#checkOpen("lookup");
    this.#checkKeys(keys, "lookup");
    if (keys.count === 0) return new Uint8Array(0);
    return this.#run("lookup", options, "load", (author) => this._lookup(keys, author));
  }

  /** Stores each slot's block under its key. Outcomes: STORED, PRESENT (was there; the bytes are not compared), DROPPED (not wanted
   * now: full, overloaded), FAILED. A key twice in a batch is stored once. The region's slots are read until the call ends. */
  async store(batch: BlockBatch, options: CallOptions = {}): Promise<BatchResult> {
    this.#checkOpen("store");
    this.#checkBatch(batch, "store");
    if (batch.keys.count === 0) return emptyResult();
    return this.#run("store", options, "store", (author) => this._store(batch, author));
  }

  /** Loads each key's block into its slot. Outcomes: LOADED (all bytes are there and, with `verifiesPayload`, checked), MISS, CORRUPT,
   * FAILED. The content of a slot whose key was not LOADED is undefined. No slot is touched after the call has ended. */
  async load(batch: BlockBatch, options: CallOptions = {}): Promise<BatchResult> {
    this.#checkOpen("load");
    this.#checkBatch(batch, "load");
    if (batch.keys.count === 0) return emptyResult();
    return this.#run("load", options, "load", (author) => this._load(batch, author));
  }

  /** Outcomes: REMOVED, MISS, FAILED. Needs `capabilities.remove`. */
  async remove(keys: KeyBatch, options: CallOptions = {}): Promise<BatchResult> {
    this.#checkCapability("remove");
    this.#checkOpen("remove");
    this.#checkKeys(keys, "remove");
    if (keys.count === 0) return emptyResult();
    return this.#run("remove", options, "store", (author) => this._remove(keys, author));
  }

  /** Every block that was there from the scan's start to its end, exactly once; blocks that come or go meanwhile may be listed.
   * Needs `capabilities.scan`. Throws synchronously for misuse. */
  scan(options: ScanOptions = {}): AsyncIterable<readonly ScanEntry[]> {
    this.#checkCapability("scan");
    this.#checkOpen("scan");
    const pageEntriesMax = options.pageEntriesMax ?? SCAN_PAGE_ENTRIES;
    if (!Number.isSafeInteger(pageEntriesMax) || pageEntriesMax < 1) {
      throw new KvferryError("INVALID_ARGUMENT", `scan: pageEntriesMax must be a positive whole number, got ${pageEntriesMax}`);
    }
    return this.#scanPages({ ...options, pageEntriesMax });
  }

  /** Needs `capabilities.usage`. */
  async usage(): Promise<Usage> {
    this.#checkCapability("usage");
    this.#checkOpen("usage");
    return this.#run("usage", {}, "store", () => this._usage());
  }

  /** Lets calls under way finish, then releases everything. New calls are refused with CLOSED from now on. May be called twice. */
  close(): Promise<void> {
    this.#closing ??= this.#runClose();
    return this.#closing;
  }

  /** Hears of blocks that went away unasked (eviction, damage). Returns the way to stop listening. */
  onRemoved(listener: RemovalListener): () => void {
    this.#removalListeners.add(listener);
    return () => this.#removalListeners.delete(listener);
  }

  protected abstract _open(context: AuthorContext): Promise<void>;
  protected abstract _lookup(keys: KeyBatch, options: AuthorOptions): Promise<Uint8Array>;
  protected abstract _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult>;
  protected abstract _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult>;
  /** Called once, when no call is under way; also after a failed `_open`. */
  protected abstract _close(): Promise<void>;

  protected _remove(_keys: KeyBatch, _options: AuthorOptions): Promise<BatchResult> {
    throw this.#notWritten("remove");
  }

  protected _scan(_options: Required<Pick<ScanOptions, "pageEntriesMax">> & ScanOptions): AsyncIterable<readonly ScanEntry[]> {
    throw this.#notWritten("scan");
  }

  protected _usage(): Promise<Usage> {
    throw this.#notWritten("usage");
  }

  /** For authors: tells listeners that blocks went away. */
  protected announceRemoved(keys: KeyBatch, reason: RemovalReason): void {
    for (const listener of this.#removalListeners) listener(keys, reason);
  }

  async #runOpen(context: AuthorContext): Promise<void> {
    try {
      context.signal?.throwIfAborted();
      await this._open(context);
      this.#state = "open";
    } catch (thrown) {
      this.#state = "closed";
      await this._close().catch(() => {}); // the first error is the one that explains
      throw toKvferryError(thrown, "open");
    }
  }

  async #runClose(): Promise<void> {
    await this.#opening?.catch(() => {}); // open() itself reports it
    if (this.#state !== "open") {
      this.#state = "closed";
      return;
    }
    this.#state = "closing";
    if (this.#inFlight > 0) {
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
    }
    try {
      await this._close();
    } finally {
      this.#state = "closed";
      this.#removalListeners.clear();
    }
  }

  async #run<T>(operation: string, options: CallOptions, priority: Priority, call: (author: AuthorOptions) => Promise<T>): Promise<T> {
    const limit = callLimit(options, operation);
    this.#inFlight++;
    try {
      return await call({ signal: limit.signal, priority: options.priority ?? priority });
    } catch (thrown) {
      throw toKvferryError(thrown, operation, { backend: this.manifest.name });
    } finally {
      limit.release();
      this.#ended();
    }
  }

  async *#scanPages(options: Required<Pick<ScanOptions, "pageEntriesMax">> & ScanOptions): AsyncGenerator<readonly ScanEntry[]> {
    this.#checkOpen("scan");
    this.#inFlight++;
    try {
      yield* this._scan(options);
    } catch (thrown) {
      throw toKvferryError(thrown, "scan", { backend: this.manifest.name });
    } finally {
      this.#ended();
    }
  }

  #ended(): void {
    this.#inFlight--;
    if (this.#inFlight === 0) this.#idle?.();
  }

  #checkOpen(operation: string): void {
    if (this.#state === "open") return;
    const code: ErrorCode = this.#state === "closing" || this.#state === "closed" ? "CLOSED" : "NOT_OPEN";
    throw new KvferryError(code, `${this.manifest.name}: ${operation}() on a backend that is ${this.#state}`, { operation });
  }

  #checkCapability(name: keyof Capabilities): void {
    if (this.manifest.capabilities[name]) return;
    throw new KvferryError("UNSUPPORTED", `${this.manifest.name}: this backend has no ${name}()`, { operation: name });
  }

  #notWritten(name: string): KvferryError {
    return new KvferryError("INTERNAL", `${this.manifest.name}: the manifest promises ${name}, but _${name} is not written`, { operation: name });
  }

  #checkContext(context: OpenContext): void {
    const { keyBytesMax, blockBytesMin, blockBytesMax } = this.manifest.limits;
    checkRange("keyBytes", context.keyBytes, KEY_BYTES_MIN, keyBytesMax);
    checkRange("blockBytes", context.blockBytes, blockBytesMin, blockBytesMax);
  }

  #checkKeys(keys: KeyBatch, operation: string): void {
    const { keyBytes } = this.context;
    if (keys.stride !== keyBytes) {
      throw misuse(operation, `keys have a stride of ${keys.stride} bytes, the backend was opened with keyBytes ${keyBytes}`, "keys.stride");
    }
    if (!Number.isSafeInteger(keys.count) || keys.count < 0 || keys.bytes.length !== keys.count * keys.stride) {
      throw misuse(operation, `keys: ${keys.bytes.length} bytes are not ${keys.count} keys of ${keys.stride}`, "keys.bytes");
    }
    const { batchKeysMax } = this.manifest.limits;
    if (keys.count > batchKeysMax) {
      throw misuse(operation, `a batch of ${keys.count} keys is over batchKeysMax ${batchKeysMax}`, "keys.count");
    }
  }

  #checkBatch({ keys, region, slots }: BlockBatch, operation: string): void {
    this.#checkKeys(keys, operation);
    if (slots.length !== keys.count) {
      throw misuse(operation, `${slots.length} slots for ${keys.count} keys`, "slots");
    }
    if (region.rowBytes < this.context.blockBytes) {
      throw misuse(operation, `the region's rows have ${region.rowBytes} bytes, a block needs ${this.context.blockBytes}`, "region.rowBytes");
    }
    if (region.bytes.length < region.rows * region.rowBytes) {
      throw misuse(operation, `the region has ${region.bytes.length} bytes, less than ${region.rows} rows of ${region.rowBytes}`, "region.bytes");
    }
    for (let i = 0; i < slots.length; i++) {
      if ((slots[i] as number) >= region.rows) {
        throw misuse(operation, `slots[${i}] is ${slots[i]}, the region has ${region.rows} rows`, "slots");
      }
    }
  }
}

/** DEADLINE or ABORTED: why a signal that is aborted was. */
export function abortCode(signal: AbortSignal): "DEADLINE" | "ABORTED" {
  const reason: unknown = signal.reason;
  if (reason instanceof KvferryError && reason.code === "DEADLINE") return "DEADLINE";
  return (reason as { name?: unknown } | undefined)?.name === "TimeoutError" ? "DEADLINE" : "ABORTED";
}

interface CallLimit {
  signal: AbortSignal | undefined;
  release(): void;
}

const unlimited: CallLimit = Object.freeze({ signal: undefined, release() {} });

function callLimit({ signal, deadlineMs }: CallOptions, operation: string): CallLimit {
  if (deadlineMs === undefined) return signal === undefined ? unlimited : { signal, release() {} };
  if (!(deadlineMs >= 0)) throw misuse(operation, `deadlineMs must be 0 or more, got ${deadlineMs}`, "deadlineMs");
  const controller = new AbortController();
  const onAbort = (): void => controller.abort(signal?.reason);
  if (signal?.aborted) onAbort();
  signal?.addEventListener("abort", onAbort, { once: true });
  const expire = (): void =>
    controller.abort(new KvferryError("DEADLINE", `${operation}: the deadline of ${deadlineMs} ms has passed`, { operation }));
  const timer = setTimeout(expire, Math.min(deadlineMs, 2 ** 31 - 1));
  if (deadlineMs === 0) expire();
  return {
    signal: controller.signal,
    release() {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    },
  };
}

function checkRange(field: string, value: number, min: number, max: number): void {
  if (!Number.isSafeInteger(value) || value < min || value > max) {
    throw misuse("open", `${field} must be a whole number from ${min} to ${max}, got ${value}`, field);
  }
}

function misuse(operation: string, message: string, field: string): KvferryError {
  return new KvferryError("INVALID_ARGUMENT", `${operation}: ${message}`, { operation, context: { field } });
}

function emptyResult(): BatchResult {
  return { outcomes: new Uint8Array(0), codes: new Uint8Array(0) };
}

import { type AuthorOptions, abortCode, abortError, type CallOptions, callLimit, type Priority } from "./call.js";
import { type ErrorCode, KvferryError, toKvferryError } from "./errors.js";
import { KEY_BYTES_MIN, type KeyBatch } from "./keys.js";
import type { Capabilities, Manifest } from "./manifest.js";
import type { Namespace } from "./namespace.js";
import { type BatchResult, Outcome, uniformResult } from "./outcomes.js";
import type { Region } from "./region.js";
import { type Clock, type Logger, silentLogger, systemClock } from "./runtime.js";
import { type AuthorScanOptions, type ScanOptions, type ScanPage, ScanRun } from "./scan.js";

/** Blocks to move: key i belongs to slot `slots[i]` of the region. */
export interface BlockBatch {
  readonly keys: KeyBatch;
  readonly region: Region;
  readonly slots: Uint32Array;
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

/** "closing" from the moment that close() is called. */
export type BackendState = "new" | "opening" | "open" | "closing" | "closed";

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
  #state: BackendState = "new";
  #context: AuthorContext | undefined;
  #inFlight = 0;
  #idle: (() => void) | undefined;
  #opening: Promise<void> | undefined;
  #closing: Promise<void> | undefined;
  readonly #removalListeners: Set<RemovalListener> = new Set();
  /** Scans that have begun and not ended; most wait for their reader. */
  readonly #scans: Set<ScanRun> = new Set();

  protected constructor(manifest: Manifest) {
    this.manifest = manifest;
  }

  get state(): BackendState {
    return this.#closing !== undefined && this.#state !== "closed" ? "closing" : this.#state;
  }

  /** Calls under way. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** The context given to `open`.
   * @throws KvferryError NOT_OPEN before it. */
  get context(): AuthorContext {
    if (this.#context === undefined)
      throw new KvferryError("NOT_OPEN", `${this.manifest.name}: open() has not been called`);
    return this.#context;
  }

  /** Makes the backend ready; a second call is misuse. After a failure the instance is closed.
   * @throws KvferryError INVALID_ARGUMENT, or what `_open` throws. */
  async open(context: OpenContext): Promise<void> {
    if (this.state !== "new") {
      throw misuse("open", `${this.manifest.name}: open() on a backend that is ${this.state}`, "state");
    }
    this.#checkContext(context);
    this.#state = "opening";
    this.#context = { logger: silentLogger, clock: systemClock, ...context };
    this.#opening = this.#runOpen(this.#context);
    await this.#opening;
  }

  /** One LookupState byte per key, in order. Never touches payloads. It has no outcome for a single key, so a lookup that fails
   * or is cut short rejects; whoever asks may take that as "all MISS". */
  async lookup(keys: KeyBatch, options: CallOptions = {}): Promise<Uint8Array> {
    this.#checkOpen("lookup");
    this.#checkKeys(keys, "lookup");
    if (keys.count === 0) return new Uint8Array(0);
    return this.#run("lookup", options, "load", async (author) => {
      const states = await this._lookup(keys, author);
      this.#checkLength("lookup", states.length, keys);
      return states;
    });
  }

  /** The answer of `lookup` at once, where the backend has it in memory; undefined where it has not: then ask `lookup`. For callers that
   * wait with a request in hand: it costs no promise, no timer, no turn of the event loop. */
  lookupNow(keys: KeyBatch): Uint8Array | undefined {
    this.#checkOpen("lookup");
    this.#checkKeys(keys, "lookup");
    if (keys.count === 0) return new Uint8Array(0);
    const states = this._lookupNow(keys);
    if (states !== undefined) this.#checkLength("lookupNow", states.length, keys);
    return states;
  }

  /** Stores each slot's block under its key. Outcomes: STORED, PRESENT (was there; the bytes are not compared), DROPPED (not wanted
   * now: full, overloaded), FAILED. A key twice in a batch is stored once. The region's slots are read until the call ends. */
  async store(batch: BlockBatch, options: CallOptions = {}): Promise<BatchResult> {
    this.#checkOpen("store");
    this.#checkBatch(batch, "store");
    if (batch.keys.count === 0) return emptyResult();
    return this.#runBatch("store", batch.keys, options, (author) => this._store(batch, author));
  }

  /** Loads each key's block into its slot. Outcomes: LOADED (all bytes are there and, with `verifiesPayload`, checked), MISS, CORRUPT,
   * FAILED. The content of a slot whose key was not LOADED is undefined. No slot is touched after the call has ended. */
  async load(batch: BlockBatch, options: CallOptions = {}): Promise<BatchResult> {
    this.#checkOpen("load");
    this.#checkBatch(batch, "load");
    if (batch.keys.count === 0) return emptyResult();
    return this.#runBatch("load", batch.keys, options, (author) => this._load(batch, author));
  }

  /** Outcomes: REMOVED, MISS, FAILED. Needs `capabilities.remove`. */
  async remove(keys: KeyBatch, options: CallOptions = {}): Promise<BatchResult> {
    this.#checkCapability("remove");
    this.#checkOpen("remove");
    this.#checkKeys(keys, "remove");
    if (keys.count === 0) return emptyResult();
    return this.#runBatch("remove", keys, options, (author) => this._remove(keys, author));
  }

  /** Every block that was there from the scan's start to its end, exactly once; blocks that come or go meanwhile may be listed.
   * Needs `capabilities.scan`. Throws synchronously for misuse. A reader may pause between pages as long as it likes; when the
   * backend is closed meanwhile, the next page rejects with CLOSED. */
  scan(options: ScanOptions = {}): AsyncIterableIterator<ScanPage> {
    this.#checkCapability("scan");
    this.#checkOpen("scan");
    const pageEntriesMax = options.pageEntriesMax ?? SCAN_PAGE_ENTRIES;
    if (!Number.isSafeInteger(pageEntriesMax) || pageEntriesMax < 1) {
      throw misuse("scan", `pageEntriesMax must be a positive whole number, got ${pageEntriesMax}`, "pageEntriesMax");
    }
    const source = (): AsyncIterable<ScanPage> => this._scan({ ...options, pageEntriesMax });
    return new ScanRun(source, this.#scanHost, options.signal);
  }

  /** Needs `capabilities.usage`. */
  async usage(): Promise<Usage> {
    this.#checkCapability("usage");
    this.#checkOpen("usage");
    return this.#run("usage", {}, "store", () => this._usage());
  }

  /** Lets calls under way finish, then releases everything. New calls are refused with CLOSED from now on. May be called twice; also
   * before `open`, and while it runs. */
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
  /** Optional; must not block. */
  protected _lookupNow(_keys: KeyBatch): Uint8Array | undefined {
    return undefined;
  }

  protected abstract _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult>;
  protected abstract _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult>;
  /** Called once, when no call is under way; also after a failed `_open`. */
  protected abstract _close(): Promise<void>;

  protected _remove(_keys: KeyBatch, _options: AuthorOptions): Promise<BatchResult> {
    throw this.#notWritten("remove");
  }

  protected _scan(_options: AuthorScanOptions): AsyncIterable<ScanPage> {
    throw this.#notWritten("scan");
  }

  protected _usage(): Promise<Usage> {
    throw this.#notWritten("usage");
  }

  /** For authors: tells listeners that blocks went away. A listener that throws harms nobody else. */
  protected announceRemoved(keys: KeyBatch, reason: RemovalReason): void {
    for (const listener of this.#removalListeners) {
      try {
        listener(keys, reason);
      } catch (err) {
        this.#context?.logger.error({ err, backend: this.manifest.name }, "a listener for removed blocks has thrown");
      }
    }
  }

  async #runOpen(context: AuthorContext): Promise<void> {
    const { signal } = context;
    try {
      if (signal?.aborted) throw abortError(signal, "open");
      await this._open(context);
      this.#state = "open";
    } catch (thrown) {
      this.#state = "closed";
      await this._close().catch(() => {}); // the first error is the one that explains
      if (signal?.aborted && thrown === signal.reason) throw abortError(signal, "open");
      throw toKvferryError(thrown, "open", { backend: this.manifest.name });
    }
  }

  async #runClose(): Promise<void> {
    await this.#opening?.catch(() => {}); // open() itself reports it
    if (this.#state !== "open") {
      this.#state = "closed";
      return;
    }
    if (this.#inFlight > 0) {
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
    }
    for (const scan of this.#scans) await scan.cutOff().catch(() => {}); // its reader hears of it as CLOSED
    try {
      await this._close();
    } finally {
      this.#state = "closed";
      this.#scans.clear();
      this.#removalListeners.clear();
    }
  }

  /** A call with an outcome for each key: what its signal cut short is an outcome too. */
  async #runBatch(
    operation: "store" | "load" | "remove",
    keys: KeyBatch,
    options: CallOptions,
    call: (author: AuthorOptions) => Promise<BatchResult>,
  ): Promise<BatchResult> {
    const cutShort = (signal: AbortSignal): BatchResult => uniformResult(keys.count, Outcome.FAILED, abortCode(signal));
    const priority = operation === "load" ? "load" : "store";
    return this.#run(
      operation,
      options,
      priority,
      async (author) => {
        const result = await call(author);
        this.#checkLength(operation, result.outcomes.length, keys);
        this.#checkLength(operation, result.codes.length, keys);
        return result;
      },
      cutShort,
    );
  }

  async #run<T>(
    operation: string,
    options: CallOptions,
    priority: Priority,
    call: (author: AuthorOptions) => Promise<T>,
    cutShort?: (signal: AbortSignal) => T,
  ): Promise<T> {
    const { signal, release } = callLimit(options, operation);
    this.#inFlight++;
    try {
      signal?.throwIfAborted();
      return await call({ signal, priority: options.priority ?? priority });
    } catch (thrown) {
      if (signal?.aborted && isCutShort(thrown, signal)) {
        if (cutShort !== undefined) return cutShort(signal);
        throw abortError(signal, operation);
      }
      throw toKvferryError(thrown, operation, { backend: this.manifest.name });
    } finally {
      release();
      this.#ended();
    }
  }

  readonly #scanHost = {
    begin: (scan: ScanRun): void => {
      this.#checkOpen("scan");
      this.#scans.add(scan);
      this.#inFlight++;
    },
    end: (scan: ScanRun): void => {
      if (scan.ended) this.#scans.delete(scan);
      this.#ended();
    },
    forget: (scan: ScanRun): void => {
      this.#scans.delete(scan);
    },
    error: (thrown: unknown): KvferryError => toKvferryError(thrown, "scan", { backend: this.manifest.name }),
  };

  #ended(): void {
    this.#inFlight--;
    if (this.#inFlight === 0) this.#idle?.();
  }

  #checkOpen(operation: string): void {
    const { state } = this;
    if (state === "open") return;
    const code: ErrorCode = state === "closing" || state === "closed" ? "CLOSED" : "NOT_OPEN";
    throw new KvferryError(code, `${this.manifest.name}: ${operation}() on a backend that is ${state}`, { operation });
  }

  #checkCapability(name: keyof Capabilities): void {
    if (this.manifest.capabilities[name]) return;
    throw new KvferryError("UNSUPPORTED", `${this.manifest.name}: this backend has no ${name}()`, { operation: name });
  }

  #notWritten(name: string): KvferryError {
    return new KvferryError(
      "INTERNAL",
      `${this.manifest.name}: the manifest promises ${name}, but _${name} is not written`,
      { operation: name },
    );
  }

  /** An author's mistake must not reach the caller as outcomes that belong to other keys. */
  #checkLength(operation: string, length: number, keys: KeyBatch): void {
    if (length === keys.count) return;
    const { name } = this.manifest;
    throw new KvferryError("INTERNAL", `${name}: _${operation} answered ${length} keys of ${keys.count}`, {
      operation,
    });
  }

  #checkContext(context: OpenContext): void {
    const { keyBytesMax, blockBytesMin, blockBytesMax } = this.manifest.limits;
    checkRange("keyBytes", context.keyBytes, KEY_BYTES_MIN, keyBytesMax);
    checkRange("blockBytes", context.blockBytes, blockBytesMin, blockBytesMax);
  }

  #checkKeys(keys: KeyBatch, operation: string): void {
    const { keyBytes } = this.context;
    if (keys.stride !== keyBytes) {
      throw misuse(
        operation,
        `keys have a stride of ${keys.stride} bytes, the backend was opened with keyBytes ${keyBytes}`,
        "keys.stride",
      );
    }
    if (!Number.isSafeInteger(keys.count) || keys.count < 0 || keys.bytes.length !== keys.count * keys.stride) {
      throw misuse(
        operation,
        `keys: ${keys.bytes.length} bytes are not ${keys.count} keys of ${keys.stride}`,
        "keys.bytes",
      );
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
    const { rows, rowBytes, bytes } = region; // each may be a call into native code
    if (rowBytes < this.context.blockBytes) {
      throw misuse(
        operation,
        `the region's rows have ${rowBytes} bytes, a block needs ${this.context.blockBytes}`,
        "region.rowBytes",
      );
    }
    if (bytes.length < rows * rowBytes) {
      throw misuse(
        operation,
        `the region has ${bytes.length} bytes, less than ${rows} rows of ${rowBytes}`,
        "region.bytes",
      );
    }
    for (let i = 0; i < slots.length; i++) {
      if ((slots[i] as number) >= rows) {
        throw misuse(operation, `slots[${i}] is ${slots[i]}, the region has ${rows} rows`, "slots");
      }
    }
  }
}

/** Whether what was thrown says no more than that the signal was aborted. */
function isCutShort(thrown: unknown, signal: AbortSignal): boolean {
  if (thrown === signal.reason) return true;
  const { name, code } = (thrown ?? {}) as { name?: unknown; code?: unknown };
  return name === "AbortError" || name === "TimeoutError" || code === "ABORTED" || code === "DEADLINE";
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

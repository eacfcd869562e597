import { abortError } from "./call.js";

export interface ScanEntry {
  readonly key: Uint8Array;
  /** Bytes on storage, everything included. */
  readonly bytes: number;
  /** Wall clock, ms. */
  readonly storedAtMs: number;
  /** Last known use, ms; at least storedAtMs. */
  readonly usedAtMs: number;
  /** Key of the block before it in its chain; undefined where that is not known, or there is none. */
  readonly parent?: Uint8Array | undefined;
}

export interface ScanOptions {
  readonly signal?: AbortSignal | undefined;
  /** Entries a page, at most; default 1,024. */
  readonly pageEntriesMax?: number | undefined;
}

/** What `_scan` receives: the page size is there. */
export interface AuthorScanOptions {
  readonly signal?: AbortSignal | undefined;
  readonly pageEntriesMax: number;
}

export type ScanPage = readonly ScanEntry[];

/** What a scan asks of the backend that it reads. */
export interface ScanHost {
  /** A page is about to be read.
   * @throws KvferryError CLOSED, once the backend is closing. */
  begin(scan: ScanRun): void;
  /** The page has been read, or reading it has failed. */
  end(scan: ScanRun): void;
  /** The reader has stopped early. */
  forget(scan: ScanRun): void;
  error(thrown: unknown): Error;
}

/** One pass over a backend's pages. It counts as a call under way only while a page is being read, so that a reader that
 * pauses between pages (or never comes back) does not hold up `close`. */
export class ScanRun implements AsyncIterableIterator<ScanPage> {
  readonly #source: () => AsyncIterable<ScanPage>;
  readonly #host: ScanHost;
  readonly #signal: AbortSignal | undefined;
  #pages: AsyncIterator<ScanPage> | undefined;
  #ended = false;

  constructor(source: () => AsyncIterable<ScanPage>, host: ScanHost, signal: AbortSignal | undefined) {
    this.#source = source;
    this.#host = host;
    this.#signal = signal;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  get ended(): boolean {
    return this.#ended;
  }

  async next(): Promise<IteratorResult<ScanPage, undefined>> {
    this.#host.begin(this); // before `ended`: a reader of a scan that close() has cut off must hear of it
    try {
      if (this.#ended) return { done: true, value: undefined };
      if (this.#signal?.aborted) throw abortError(this.#signal, "scan");
      this.#pages ??= this.#source()[Symbol.asyncIterator]();
      const { done, value } = await this.#pages.next();
      if (!done) return { done: false, value };
      this.#ended = true;
      return { done: true, value: undefined };
    } catch (thrown) {
      await this.cutOff().catch(() => {}); // the first error is the one that explains
      throw this.#host.error(thrown);
    } finally {
      this.#host.end(this);
    }
  }

  async return(): Promise<IteratorResult<ScanPage, undefined>> {
    await this.cutOff();
    this.#host.forget(this);
    return { done: true, value: undefined };
  }

  /** Lets the author's generator release what it holds. */
  async cutOff(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    await this.#pages?.return?.();
  }
}

import { type AuthorContext, type Background, type ScanEntry, storedBlockBytes } from "@kvferry/core";
import type { KnownKeys } from "./known-keys.js";
import { listObjects } from "./listing.js";
import type { ObjectNames } from "./names.js";
import type { RequestOptions, S3Requests } from "./requests.js";

/** Ms after which a listing that has failed is tried again. */
const AGAIN_MS = 30_000;

export interface InventoryParts {
  readonly requests: S3Requests;
  readonly names: ObjectNames;
  readonly known: KnownKeys;
  readonly context: AuthorContext;
  readonly background: Background;
  /** Aborted when the backend closes. */
  readonly stopping: AbortSignal;
}

/** Lists the blocks of a namespace, and keeps what this process knows of them. */
export class Inventory {
  readonly #parts: InventoryParts;
  #listing: Promise<void> | undefined;
  #listedAtMs = Number.NEGATIVE_INFINITY;

  constructor(parts: InventoryParts) {
    this.#parts = parts;
  }

  /** Begins to fill the index. The first page is waited for: it tells whether listing is allowed, and is mostly all there is.
   * @throws KvferryError */
  async begin(): Promise<void> {
    const { background, context, requests, stopping } = this.#parts;
    let open = false;
    await new Promise<void>((resolve, reject) => {
      void background.start(async () => {
        for (;;) {
          try {
            await this.#list(() => {
              open = true;
              resolve();
            });
            resolve();
            return;
          } catch (err) {
            if (!open) reject(err);
            if (!open || stopping.aborted) return;
            context.logger.warn(
              { err, ...requests.place },
              "the blocks could not be listed; lookups ask for each of them",
            );
          }
          await pause(AGAIN_MS, stopping);
          if (stopping.aborted) return;
        }
      });
    });
  }

  /** The blocks, in pages of no order. */
  async *blocks(options: RequestOptions): AsyncGenerator<ScanEntry[]> {
    const { context, names, requests } = this.#parts;
    const bytes = storedBlockBytes(context.blockBytes);
    for await (const objects of listObjects(requests, names.root, options)) {
      const entries: ScanEntry[] = [];
      for (const object of objects) {
        const key = object.bytes === bytes ? names.keyOf(object.name) : undefined;
        const { modifiedAtMs } = object;
        if (key !== undefined) entries.push({ key, bytes, storedAtMs: modifiedAtMs, usedAtMs: modifiedAtMs });
      }
      if (entries.length > 0) yield entries;
    }
  }

  /** Ends when what is known is whole and no older than `ageMsMax`. */
  async refresh(ageMsMax: number): Promise<void> {
    const { context, known } = this.#parts;
    if (known.complete && context.clock.monotonicMs() - this.#listedAtMs <= ageMsMax) return;
    await this.#list();
  }

  /** One listing at a time. */
  #list(onPage: () => void = () => {}): Promise<void> {
    this.#listing ??= this.#run(onPage).finally(() => {
      this.#listing = undefined;
    });
    return this.#listing;
  }

  async #run(onPage: () => void): Promise<void> {
    const { context, known, stopping } = this.#parts;
    known.beginListing();
    let whole = false;
    try {
      for await (const entries of this.blocks({ signal: stopping, priority: "store" })) {
        for (const { key } of entries) known.listed(key);
        onPage();
      }
      whole = true;
      this.#listedAtMs = context.clock.monotonicMs();
    } finally {
      known.endListing(whole);
    }
  }
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    timer.unref();
    signal.addEventListener("abort", done, { once: true });
  });
}

import {
  type AuthorOptions,
  type BatchResult,
  type BlockBatch,
  defineManifest,
  type KeyBatch,
  OffloadBackend,
  Outcome,
  packedKeys,
  uniformResult,
} from "@kvferry/core";

/** A backend whose stores and loads end when the test says so, whatever their signal says: I/O that is under way. */
export class GatedBackend extends OffloadBackend {
  /** Calls that wait, and their signals. */
  readonly waiting: { readonly operation: string; readonly signal: AbortSignal | undefined; end(): void }[] = [];
  closed = false;

  constructor() {
    super(defineManifest({ name: "gated", capabilities: { verifiesPayload: true } }));
  }

  /** Ends everything that waits. */
  endAll(): void {
    for (const each of this.waiting.splice(0)) each.end();
  }

  evict(count: number): void {
    this.announceRemoved(packedKeys(new Uint8Array(count * this.context.keyBytes), this.context.keyBytes), "evicted");
  }

  protected override async _open(): Promise<void> {}

  protected override async _close(): Promise<void> {
    this.closed = true;
  }

  protected override async _lookup(keys: KeyBatch): Promise<Uint8Array> {
    return new Uint8Array(keys.count);
  }

  protected override _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#wait("store", batch, options, Outcome.STORED);
  }

  protected override _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#wait("load", batch, options, Outcome.LOADED);
  }

  #wait(operation: string, { keys }: BlockBatch, { signal }: AuthorOptions, outcome: Outcome): Promise<BatchResult> {
    return new Promise((resolve) => {
      this.waiting.push({ operation, signal, end: () => resolve(uniformResult(keys.count, outcome)) });
    });
  }
}

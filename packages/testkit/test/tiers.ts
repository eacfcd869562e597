import {
  type AuthorContext,
  type AuthorOptions,
  type BatchResult,
  type BlockBatch,
  Layer,
  type OffloadBackend,
  type TieredStore,
} from "@kvferry/core";

/** Ends a store or load only when nothing of it goes on in the background, for tests that count what is there. */
export class Settled extends Layer {
  readonly #store: TieredStore;

  constructor(store: TieredStore) {
    super(store);
    this.#store = store;
  }

  protected override async _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const result = await super._store(batch, options);
    await this.#store.settled();
    return result;
  }

  protected override async _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const result = await super._load(batch, options);
    await this.#store.settled();
    return result;
  }
}

/** Keeps the most blocks that the backend within ever had after a store. */
export class HighWater extends Layer {
  blocks = 0;

  constructor(inner: OffloadBackend) {
    super(inner);
  }

  protected override async _open(context: AuthorContext): Promise<void> {
    await super._open(context);
    await this.#look();
  }

  protected override async _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const result = await super._store(batch, options);
    await this.#look();
    return result;
  }

  async #look(): Promise<void> {
    this.blocks = Math.max(this.blocks, (await this.inner.usage()).blocks);
  }
}

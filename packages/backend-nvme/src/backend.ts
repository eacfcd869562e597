import {
  type AuthorContext,
  type AuthorOptions,
  type AuthorScanOptions,
  type BatchResult,
  type BlockBatch,
  type EvictingListener,
  EvictingListeners,
  type EvictionSource,
  type KeyBatch,
  NO_ROW,
  OffloadBackend,
  type ScanEntry,
  type ScanPage,
  type Usage,
} from "@kvferry/core";
import { type NvmeDriveConfig, resolveDriveConfig } from "./config.js";
import { type NvmeDrive, openNvmeDrive } from "./drive.js";
import { nvmeManifest } from "./manifest.js";
import { RowState, type Shelf, type ShelfUser } from "./shelf.js";

/** A drive that is open already and stays so, shared by the backends of all namespaces; or the settings of one that this backend
 * opens and closes. */
export type NvmeConfig = NvmeDriveConfig | { readonly drive: NvmeDrive };

/** The blocks of one namespace in the segments of a local drive. It makes room by itself: `onRemoved` tells what it has evicted, and whoever listens
 * by `onEvicting` can copy blocks before they go. */
export class NvmeBackend extends OffloadBackend implements EvictionSource {
  readonly #config: NvmeConfig;
  #drive: NvmeDrive | undefined;
  #shelf: Shelf | undefined;
  readonly #user: ShelfUser;

  /** @throws KvferryError CONFIG_INVALID with `context.field`. */
  constructor(config: NvmeConfig) {
    super(nvmeManifest);
    if (!("drive" in config)) resolveDriveConfig(config);
    this.#config = config;
    this.#user = {
      evicting: new EvictingListeners(),
      removed: (keys, reason) => this.announceRemoved(keys, reason),
    };
  }

  onEvicting(listener: EvictingListener): () => void {
    return this.#user.evicting.add(listener);
  }

  /** Where the blocks lie; undefined before `open`. */
  get drive(): NvmeDrive | undefined {
    return this.#drive;
  }

  protected override async _open(context: AuthorContext): Promise<void> {
    const { logger, clock } = context;
    this.#drive = "drive" in this.#config ? this.#config.drive : await openNvmeDrive(this.#config, { logger, clock });
    this.#shelf = this.#drive.attach(context, this.#user);
    await this.#drive.describe(context).catch((err: unknown) => {
      logger.warn({ err }, "could not write down whose blocks these are: tools will not find them");
    });
  }

  protected override async _lookup(keys: KeyBatch): Promise<Uint8Array> {
    return this.#blocks.lookup(keys);
  }

  protected override _lookupNow(keys: KeyBatch): Uint8Array {
    return this.#blocks.lookup(keys);
  }

  protected override _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#opened.store(this.#blocks, batch, options);
  }

  protected override _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#opened.load(this.#blocks, batch, options);
  }

  protected override _remove(keys: KeyBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#opened.remove(this.#blocks, keys, options);
  }

  protected override async *_scan({ pageEntriesMax }: AuthorScanOptions): AsyncGenerator<ScanPage> {
    const { index, paddedBytes } = this.#blocks;
    let page: ScanEntry[] = [];
    // a block that stays keeps its row; rows come and go behind and before this one
    for (let row = 0; row < index.rowLimit; row++) {
      if (this.#blocks.state(row) !== RowState.STORED) continue;
      const storedAtMs = this.#blocks.storedAtMs(row);
      const usedAtMs = Math.max(storedAtMs, index.lastUseMs(row));
      const before = index.parent(row);
      const parent = before === NO_ROW ? undefined : index.key(before);
      page.push({ key: index.key(row), bytes: paddedBytes, storedAtMs, usedAtMs, parent });
      if (page.length < pageEntriesMax) continue;
      yield page;
      page = [];
    }
    if (page.length > 0) yield page;
  }

  /** Bytes are those of this namespace's blocks, padding included; the capacity is the whole drive's. */
  protected override async _usage(): Promise<Usage> {
    const { blocks, paddedBytes } = this.#blocks;
    return { bytes: blocks * paddedBytes, blocks, capacityBytes: this.#opened.config.capacityBytes };
  }

  protected override async _close(): Promise<void> {
    this.#shelf?.users.delete(this.#user);
    if (!("drive" in this.#config)) await this.#drive?.close();
  }

  get #blocks(): Shelf {
    return this.#shelf as Shelf; // set by _open, before any call
  }

  get #opened(): NvmeDrive {
    return this.#drive as NvmeDrive;
  }
}

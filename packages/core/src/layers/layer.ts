import { type AuthorContext, type BlockBatch, OffloadBackend, type Usage } from "../backend.js";
import type { AuthorOptions } from "../call.js";
import type { KeyBatch } from "../keys.js";
import type { Manifest } from "../manifest.js";
import type { BatchResult } from "../outcomes.js";
import type { AuthorScanOptions, ScanPage } from "../scan.js";

/**
 * A backend around another: forwards everything, removal events included. A layer overrides the `_` methods in which it differs, and
 * gives a manifest of its own where it can do more or less than the backend below; the name stays. A layer owns
 * what it wraps: opening and closing the layer opens and closes the inner backend, which nobody else may do.
 */
export abstract class Layer extends OffloadBackend {
  protected readonly inner: OffloadBackend;

  protected constructor(inner: OffloadBackend, manifest: Manifest = inner.manifest) {
    super(manifest);
    this.inner = inner;
  }

  protected override async _open(context: AuthorContext): Promise<void> {
    this.inner.onRemoved((keys, reason) => this.announceRemoved(keys, reason));
    await this.inner.open(context);
  }

  protected override _lookup(keys: KeyBatch, options: AuthorOptions): Promise<Uint8Array> {
    return this.inner.lookup(keys, options);
  }

  protected override _lookupNow(keys: KeyBatch): Uint8Array | undefined {
    return this.inner.lookupNow(keys);
  }

  protected override _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.inner.store(batch, options);
  }

  protected override _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.inner.load(batch, options);
  }

  protected override _remove(keys: KeyBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.inner.remove(keys, options);
  }

  protected override _scan(options: AuthorScanOptions): AsyncIterable<ScanPage> {
    return this.inner.scan(options);
  }

  protected override _usage(): Promise<Usage> {
    return this.inner.usage();
  }

  protected override _close(): Promise<void> {
    return this.inner.close();
  }
}

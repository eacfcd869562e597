import { randomUUID } from "node:crypto";
import { mkdir, open, opendir, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import {
  type AuthorContext,
  type AuthorOptions,
  type AuthorScanOptions,
  abortCode,
  type BatchResult,
  type BlockBatch,
  type KeyBatch,
  keyAt,
  keyHex,
  LookupState,
  OffloadBackend,
  Outcome,
  type ScanEntry,
  type ScanPage,
  setOutcome,
  slotBytes,
  toKvferryError,
  uniformResult,
} from "@kvferry/core";
import { checkConfig, type HostMemoryConfig } from "./config.js";
import { hostMemoryManifest } from "./manifest.js";

const SUFFIX = ".block";

/** One file a block: `<root>/<namespace digest>/<key in hex>.block`. */
export class HostMemoryBackend extends OffloadBackend {
  readonly #config: Required<HostMemoryConfig>;
  #folder = "";

  /** @throws KvferryError CONFIG_INVALID with `context.field`. */
  constructor(config: HostMemoryConfig) {
    super(hostMemoryManifest);
    this.#config = checkConfig(config);
  }

  protected override async _open({ namespace }: AuthorContext): Promise<void> {
    this.#folder = join(this.#config.root, namespace.digestHex);
    await mkdir(join(this.#folder, "tmp"), { recursive: true });
  }

  protected override async _lookup(keys: KeyBatch, { signal }: AuthorOptions): Promise<Uint8Array> {
    const states = new Uint8Array(keys.count).fill(LookupState.MISS);
    await this.#each(keys.count, async (i) => {
      signal?.throwIfAborted();
      if (await this.#isStored(keyAt(keys, i))) states[i] = LookupState.HIT;
    });
    return states;
  }

  protected override _store({ keys, region, slots }: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#outcomes("store", keys.count, options, async (i) => {
      const key = keyAt(keys, i);
      if (await this.#isStored(key)) return Outcome.PRESENT;
      await this.#write(this.#path(key), slotBytes(region, slots[i] as number, this.context.blockBytes));
      return Outcome.STORED;
    });
  }

  protected override _load({ keys, region, slots }: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#outcomes("load", keys.count, options, async (i) => {
      const slot = slotBytes(region, slots[i] as number, this.context.blockBytes);
      return (await this.#read(this.#path(keyAt(keys, i)), slot)) ? Outcome.LOADED : Outcome.MISS;
    });
  }

  protected override _remove(keys: KeyBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#outcomes("remove", keys.count, options, async (i) => {
      const gone = await unlessMissing(rm(this.#path(keyAt(keys, i))).then(() => true));
      return gone ? Outcome.REMOVED : Outcome.MISS;
    });
  }

  protected override async *_scan({ pageEntriesMax }: AuthorScanOptions): AsyncGenerator<ScanPage> {
    let page: ScanEntry[] = [];
    for await (const { name } of await opendir(this.#folder)) {
      if (!name.endsWith(SUFFIX)) continue;
      const file = await unlessMissing(stat(join(this.#folder, name)));
      if (file === undefined) continue; // removed meanwhile
      const key = new Uint8Array(Buffer.from(name.slice(0, -SUFFIX.length), "hex"));
      const usedAtMs = Math.max(file.atimeMs, file.mtimeMs);
      page.push({ key, bytes: file.size, storedAtMs: file.mtimeMs, usedAtMs });
      if (page.length < pageEntriesMax) continue;
      yield page;
      page = [];
    }
    if (page.length > 0) yield page;
  }

  protected override async _close(): Promise<void> {
    // nothing is held between calls
  }

  #path(key: Uint8Array): string {
    return join(this.#folder, keyHex(key) + SUFFIX);
  }

  async #isStored(key: Uint8Array): Promise<boolean> {
    return (await unlessMissing(stat(this.#path(key))))?.size === this.context.blockBytes;
  }

  /** Under a name that nobody else has, then renamed: no reader ever sees half a block. */
  async #write(path: string, bytes: Uint8Array): Promise<void> {
    const temporary = join(this.#folder, "tmp", randomUUID());
    const file = await open(temporary, "wx");
    try {
      await file.writeFile(bytes);
      await file.close();
      await rename(temporary, path);
    } catch (error) {
      await file.close().catch(() => {});
      await rm(temporary, { force: true });
      throw error;
    }
  }

  /** False if there is no file, or one that is not a block of this size. */
  async #read(path: string, slot: Uint8Array): Promise<boolean> {
    const file = await unlessMissing(open(path, "r"));
    if (file === undefined) return false;
    try {
      if ((await file.stat()).size !== slot.length) return false;
      let done = 0;
      while (done < slot.length) {
        const { bytesRead } = await file.read(slot, done, slot.length - done, done);
        if (bytesRead === 0) return false;
        done += bytesRead;
      }
      return true;
    } finally {
      await file.close();
    }
  }

  /** Each key's outcome: what was thrown for a key is that key's failure, and after the abort nothing more is begun. */
  async #outcomes(
    operation: string,
    count: number,
    { signal }: AuthorOptions,
    step: (index: number) => Promise<Outcome>,
  ): Promise<BatchResult> {
    const result = uniformResult(count, Outcome.FAILED);
    await this.#each(count, async (i) => {
      if (signal?.aborted) {
        setOutcome(result, i, Outcome.FAILED, abortCode(signal));
        return;
      }
      try {
        setOutcome(result, i, await step(i));
      } catch (error) {
        setOutcome(result, i, Outcome.FAILED, toKvferryError(error, operation).code);
      }
    });
    return result;
  }

  /** Runs a step for each key, a bounded number at once, and waits for all of them, also when one throws: no I/O may outlive the call. */
  async #each(count: number, step: (index: number) => Promise<void>): Promise<void> {
    let next = 0;
    const work = async (): Promise<void> => {
      while (next < count) await step(next++);
    };
    const workers = Array.from({ length: Math.min(count, this.#config.filesMax) }, work);
    const failed = (await Promise.allSettled(workers)).find(({ status }) => status === "rejected");
    if (failed !== undefined) await Promise.reject((failed as PromiseRejectedResult).reason);
  }
}

/** Undefined where the file does not exist: not being there is an answer, not an error. */
async function unlessMissing<T>(looking: Promise<T>): Promise<T | undefined> {
  try {
    return await looking;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

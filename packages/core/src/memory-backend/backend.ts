import { type AuthorContext, type BlockBatch, OffloadBackend, type Usage } from "../backend.js";
import { type AuthorOptions, abortCode } from "../call.js";
import { type KeyBatch, keyAt } from "../keys.js";
import { type BatchResult, LookupState, Outcome, setOutcome, uniformResult } from "../outcomes.js";
import { slotBytes } from "../region.js";
import type { AuthorScanOptions, ScanEntry, ScanPage } from "../scan.js";
import {
  checkMemoryConfig,
  createMemoryStorage,
  type MemoryBlock,
  type MemoryConfig,
  type MemorySpace,
} from "./config.js";
import { memoryManifest } from "./manifest.js";

/** Bytes copied before others get their turn: some tenths of a millisecond's worth. */
const TURN_BYTES = 1024 * 1024;

/** Blocks in this process's memory: the reference that every other backend can be compared with, and a cache for tests. It evicts
 * nothing; over `capacityBytes` it drops what comes. */
export class MemoryBackend extends OffloadBackend {
  readonly #config: MemoryConfig;
  #space: MemorySpace = { blocks: new Map(), bytes: 0 };

  /** @throws KvferryError CONFIG_INVALID with `context.field`. */
  constructor(config: MemoryConfig = {}) {
    super(memoryManifest(config.storage !== undefined));
    checkMemoryConfig(config);
    this.#config = config;
  }

  protected override async _open({ namespace }: AuthorContext): Promise<void> {
    const storage = this.#config.storage ?? createMemoryStorage();
    this.#space = storage.get(namespace.digestHex) ?? this.#space;
    storage.set(namespace.digestHex, this.#space);
  }

  protected override async _lookup(keys: KeyBatch): Promise<Uint8Array> {
    return this._lookupNow(keys);
  }

  protected override _lookupNow(keys: KeyBatch): Uint8Array {
    const states = new Uint8Array(keys.count);
    for (let i = 0; i < keys.count; i++) {
      states[i] = this.#find(nameOf(keyAt(keys, i))) === undefined ? LookupState.MISS : LookupState.HIT;
    }
    return states;
  }

  protected override async _store({ keys, region, slots }: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const { blockBytes, clock } = this.context;
    const { capacityBytes = Number.POSITIVE_INFINITY } = this.#config;
    return this.#eachKey(keys.count, options, (i, result) => {
      const name = nameOf(keyAt(keys, i));
      if (this.#find(name) !== undefined) return setOutcome(result, i, Outcome.PRESENT);
      // a block of another size under this key is of no use to anyone who opens this namespace now
      this.#drop(name);
      if (this.#space.bytes + blockBytes > capacityBytes) {
        return setOutcome(result, i, Outcome.DROPPED, "NO_SPACE");
      }
      const storedAtMs = clock.nowMs();
      const bytes = slotBytes(region, slots[i] as number, blockBytes).slice();
      this.#space.blocks.set(name, { bytes, storedAtMs, usedAtMs: storedAtMs });
      this.#space.bytes += blockBytes;
      return setOutcome(result, i, Outcome.STORED);
    });
  }

  protected override async _load({ keys, region, slots }: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#eachKey(keys.count, options, (i, result) => {
      const block = this.#find(nameOf(keyAt(keys, i)));
      if (block === undefined) return setOutcome(result, i, Outcome.MISS);
      region.bytes.set(block.bytes, (slots[i] as number) * region.rowBytes);
      block.usedAtMs = Math.max(block.storedAtMs, this.context.clock.nowMs());
      return setOutcome(result, i, Outcome.LOADED);
    });
  }

  protected override async _remove(keys: KeyBatch): Promise<BatchResult> {
    const result = uniformResult(keys.count, Outcome.MISS);
    for (let i = 0; i < keys.count; i++) {
      if (this.#drop(nameOf(keyAt(keys, i)))) setOutcome(result, i, Outcome.REMOVED);
    }
    return result;
  }

  protected override async *_scan({ pageEntriesMax }: AuthorScanOptions): AsyncGenerator<ScanPage> {
    let page: ScanEntry[] = [];
    // a Map's iterator lives through changes: what is there all the time is visited exactly once
    for (const [name, { bytes, storedAtMs, usedAtMs }] of this.#space.blocks) {
      page.push({ key: new Uint8Array(Buffer.from(name, "latin1")), bytes: bytes.length, storedAtMs, usedAtMs });
      if (page.length < pageEntriesMax) continue;
      yield page;
      page = [];
    }
    if (page.length > 0) yield page;
  }

  protected override async _usage(): Promise<Usage> {
    const { bytes, blocks } = this.#space;
    return { bytes, blocks: blocks.size, capacityBytes: this.#config.capacityBytes };
  }

  protected override async _close(): Promise<void> {
    this.#space = { blocks: new Map(), bytes: 0 };
  }

  #find(name: string): MemoryBlock | undefined {
    const block = this.#space.blocks.get(name);
    return block?.bytes.length === this.context.blockBytes ? block : undefined;
  }

  #drop(name: string): boolean {
    const block = this.#space.blocks.get(name);
    if (block === undefined) return false;
    this.#space.bytes -= block.bytes.length;
    return this.#space.blocks.delete(name);
  }

  /** Runs `step` for each key, giving way to others in between, until the signal says stop. */
  async #eachKey(
    count: number,
    { signal }: AuthorOptions,
    step: (index: number, result: BatchResult) => void,
  ): Promise<BatchResult> {
    const result = uniformResult(count, Outcome.FAILED, "ABORTED");
    const keysPerTurn = Math.max(1, Math.floor(TURN_BYTES / this.context.blockBytes));
    for (let i = 0; i < count; i++) {
      if (i > 0 && i % keysPerTurn === 0) await nextTurn();
      if (signal?.aborted) {
        for (let rest = i; rest < count; rest++) setOutcome(result, rest, Outcome.FAILED, abortCode(signal));
        break;
      }
      step(i, result);
    }
    return result;
  }
}

/** A key as a Map's key: one character a byte. */
function nameOf(key: Uint8Array): string {
  return Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString("latin1");
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

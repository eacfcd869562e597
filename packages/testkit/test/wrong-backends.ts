import {
  type AuthorContext,
  type AuthorOptions,
  type AuthorScanOptions,
  type BatchResult,
  type BlockBatch,
  createMemoryStorage,
  createNamespace,
  IntegrityLayer,
  type KeyBatch,
  keyAt,
  keyHex,
  LookupState,
  MemoryBackend,
  type OffloadBackend,
  Outcome,
  packKeys,
  type ScanPage,
  selectBatch,
  setOutcome,
  slotBytes,
  type Usage,
  uniformResult,
} from "@kvferry/core";
import { type BackendFactory, FaultyBackend } from "../src/index.js";
import { memoryStack } from "./memory-damage.js";

/** A backend with one mistake, and (part of) the name of the test that must find it. */
export interface WrongBackend {
  readonly mistake: string;
  readonly caughtBy: string;
  readonly factory: BackendFactory;
}

function overStorage(make: (storage: ReturnType<typeof createMemoryStorage>) => OffloadBackend): BackendFactory {
  return {
    async create() {
      const storage = createMemoryStorage();
      return { backend: make(storage), reopen: async () => make(storage), cleanup: async () => {} };
    },
  };
}

class ServesAnotherKey extends MemoryBackend {
  protected override _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const { count } = batch.keys;
    const turned = Array.from({ length: count }, (_, i) => (i + 1) % count);
    return super._load({ ...batch, keys: selectBatch(batch, turned).keys }, options);
  }
}

class IgnoresPartialFailure extends MemoryBackend {
  protected override async _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    await super._load(batch, options);
    return uniformResult(batch.keys.count, Outcome.LOADED);
  }
}

class TouchesNeighbours extends MemoryBackend {
  protected override async _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const result = await super._load(batch, options);
    for (const slot of batch.slots) batch.region.bytes[slot * batch.region.rowBytes + this.context.blockBytes] = 0;
    return result;
  }
}

class TakesSlotsForConsecutive extends MemoryBackend {
  protected override _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const first = Math.min(...batch.slots);
    return super._load({ ...batch, slots: batch.slots.map((_, i) => first + i) }, options);
  }
}

class WritesLate extends MemoryBackend {
  protected override async _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const result = await super._load(batch, options);
    setTimeout(() => slotBytes(batch.region, batch.slots[0] as number).fill(1), 3);
    return result;
  }
}

class ReadsLate extends MemoryBackend {
  protected override async _store(batch: BlockBatch): Promise<BatchResult> {
    setImmediate(() => void super._store(batch, { signal: undefined, priority: "store" }));
    return uniformResult(batch.keys.count, Outcome.STORED);
  }
}

/** Copies in two steps with a pause between them, whatever the signal says. */
class CopiesOnAfterTheAbort extends MemoryBackend {
  protected override async _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    await new Promise((resolve) => setTimeout(resolve, 2));
    return super._load(batch, { ...options, signal: undefined });
  }
}

class ChangesTheRegionWhenStoring extends MemoryBackend {
  protected override async _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const result = await super._store(batch, options);
    const first = batch.slots[0] as number;
    batch.region.bytes[first * batch.region.rowBytes] = ~(batch.region.bytes[first * batch.region.rowBytes] as number);
    return result;
  }
}

class SaysStoredAndForgets extends MemoryBackend {
  protected override async _store(batch: BlockBatch): Promise<BatchResult> {
    return uniformResult(batch.keys.count, Outcome.STORED);
  }
}

class FailsWithoutACode extends MemoryBackend {
  protected override async _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const result = await super._load(batch, options);
    for (let i = 0; i < batch.keys.count; i++) {
      if (result.outcomes[i] === Outcome.MISS) setOutcome(result, i, Outcome.FAILED);
    }
    return result;
  }
}

class RefusesKeysTwice extends MemoryBackend {
  protected override async _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const result = await super._store(batch, options);
    const seen = new Set<string>();
    for (let i = 0; i < batch.keys.count; i++) {
      const hex = keyHex(keyAt(batch.keys, i));
      if (seen.has(hex)) setOutcome(result, i, Outcome.FAILED, "BUSY");
      seen.add(hex);
    }
    return result;
  }
}

class HandlesTheFirst256Keys extends MemoryBackend {
  protected override async _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const result = await super._store(batch, options);
    for (let i = 256; i < batch.keys.count; i++) await super._remove(selectBatch(batch, [i]).keys);
    return result;
  }
}

/** Maps each key of a batch to the one that it is stored under. */
abstract class MapsKeys extends MemoryBackend {
  protected abstract mapKey(key: Uint8Array): Uint8Array;

  #mapped(keys: KeyBatch): KeyBatch {
    return packKeys(
      Array.from({ length: keys.count }, (_, i) => this.mapKey(keyAt(keys, i))),
      keys.stride,
    );
  }

  protected override _lookup(keys: KeyBatch): Promise<Uint8Array> {
    return super._lookup(this.#mapped(keys));
  }

  protected override _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return super._store({ ...batch, keys: this.#mapped(batch.keys) }, options);
  }

  protected override _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return super._load({ ...batch, keys: this.#mapped(batch.keys) }, options);
  }
}

class ForgetsTheGroup extends MapsKeys {
  protected override mapKey(key: Uint8Array): Uint8Array {
    return key.slice().fill(0, key.length - 4);
  }
}

class TakesKeysForText extends MapsKeys {
  protected override mapKey(key: Uint8Array): Uint8Array {
    const text = Buffer.from(Buffer.from(key).toString("utf8"));
    return new Uint8Array(Buffer.concat([text, Buffer.alloc(key.length)], key.length));
  }
}

class IgnoresCase extends MapsKeys {
  protected override mapKey(key: Uint8Array): Uint8Array {
    return key.map((byte) => (byte >= 0x41 && byte <= 0x5a ? byte + 0x20 : byte));
  }
}

class SaysHitAlways extends MemoryBackend {
  protected override async _lookup(keys: KeyBatch): Promise<Uint8Array> {
    return new Uint8Array(keys.count).fill(LookupState.HIT);
  }
}

class StaysPending extends MemoryBackend {
  protected override async _lookup(keys: KeyBatch): Promise<Uint8Array> {
    return (await super._lookup(keys)).map((state) => (state === LookupState.HIT ? LookupState.PENDING : state));
  }
}

class AnswersLookupsSorted extends MemoryBackend {
  protected override async _lookup(keys: KeyBatch): Promise<Uint8Array> {
    return (await super._lookup(keys)).sort();
  }
}

class ShowsHalfABlock extends MemoryBackend {
  protected override async _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const half = { ...batch, region: { ...batch.region, bytes: batch.region.bytes.slice() } };
    for (const slot of batch.slots) slotBytes(half.region, slot).fill(0, this.context.blockBytes >> 1);
    const result = await super._store(half, options);
    await new Promise((resolve) => setTimeout(resolve, 2));
    for (let i = 0; i < batch.keys.count; i++) {
      if (result.outcomes[i] === Outcome.STORED) await super._remove(selectBatch(batch, [i]).keys);
    }
    await super._store(batch, options);
    return result;
  }
}

class CountsWrong extends MemoryBackend {
  protected override async _usage(): Promise<Usage> {
    const usage = await super._usage();
    return { ...usage, bytes: usage.bytes + usage.blocks };
  }
}

class NeverFrees extends MemoryBackend {
  #bytesEver = 0;

  protected override async _usage(): Promise<Usage> {
    const usage = await super._usage();
    this.#bytesEver = Math.max(this.#bytesEver, usage.bytes);
    return { ...usage, bytes: this.#bytesEver };
  }
}

class RemovesNothing extends MemoryBackend {
  protected override async _remove(keys: KeyBatch): Promise<BatchResult> {
    const found = await super._lookup(keys);
    const result = uniformResult(keys.count, Outcome.MISS);
    for (const [i, state] of found.entries()) if (state === LookupState.HIT) setOutcome(result, i, Outcome.REMOVED);
    return result;
  }
}

class ScansWithoutTheLastPage extends MemoryBackend {
  protected override async *_scan(options: AuthorScanOptions): AsyncGenerator<ScanPage> {
    for await (const page of super._scan(options)) if (page.length === options.pageEntriesMax) yield page;
  }
}

class IgnoresThePageSize extends MemoryBackend {
  protected override _scan(): AsyncGenerator<ScanPage> {
    return super._scan({ pageEntriesMax: 1024 });
  }
}

class RestartsTheScanAfterChanges extends MemoryBackend {
  protected override async *_scan(options: AuthorScanOptions): AsyncGenerator<ScanPage> {
    for (let page = 0; ; page++) {
      const all: ScanPage[] = [];
      for await (const each of super._scan(options)) all.push(each);
      const part = all[page];
      if (part === undefined) return;
      yield part;
    }
  }
}

const everyone = createNamespace({
  ...{
    model: "m",
    weights: "00".repeat(32),
    dtype: "d",
    kvDtype: "d",
    layout: "l",
    tokensPerHash: 1,
    blocksPerChunk: 1,
  },
  ...{
    groups: [{ tokensPerBlock: 1, layers: ["0"] }],
    parallel: null,
    engine: "e",
    engineVersion: "1",
    formatVersion: 1,
  },
  tenant: "",
});

class ForgetsTheNamespace extends MemoryBackend {
  protected override _open(context: AuthorContext): Promise<void> {
    return super._open({ ...context, namespace: everyone });
  }
}

/** Knows only what it has stored itself. */
class ForgetsWhatWasThere extends MemoryBackend {
  readonly #own: Set<string> = new Set();

  protected override async _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    for (let i = 0; i < batch.keys.count; i++) this.#own.add(keyHex(keyAt(batch.keys, i)));
    return super._store(batch, options);
  }

  protected override async _lookup(keys: KeyBatch): Promise<Uint8Array> {
    const states = await super._lookup(keys);
    return states.map((state, i) => (this.#own.has(keyHex(keyAt(keys, i))) ? state : LookupState.MISS));
  }
}

class HidesThatThereIsNoSpace extends FaultyBackend {
  protected override async _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const result = await super._store(batch, options);
    return { outcomes: result.outcomes.map((each) => each || Outcome.STORED), codes: new Uint8Array(batch.keys.count) };
  }
}

const simple = (mistake: string, caughtBy: string, Backend: typeof MemoryBackend): WrongBackend => ({
  mistake,
  caughtBy,
  factory: overStorage((storage) => new Backend({ storage })),
});

const blind = memoryStack({ wrap: (inner) => new IntegrityLayer(inner, { checksum: () => 0 }) });

export const wrongBackends: readonly WrongBackend[] = [
  simple("serves another key's bytes", "each key goes with its own slot", ServesAnotherKey),
  simple("says LOADED for keys that it does not have", "a batch of present and absent keys", IgnoresPartialFailure),
  simple("writes beyond the block", "rows may be longer than blocks", TouchesNeighbours),
  simple("takes slots for consecutive", "each key goes with its own slot", TakesSlotsForConsecutive),
  simple("writes into a slot after the load has ended", "no slot is touched after an aborted load", WritesLate),
  simple("writes into a slot after close", "close while calls are under way", WritesLate),
  simple("reads the slot after the store has ended", "what the caller does with its memory", ReadsLate),
  simple("reads the slot after an aborted store", "no slot is read after an aborted store", ReadsLate),
  simple("says abandonable, and copies on", "an abandonable load leaves its slots alone", CopiesOnAfterTheAbort),
  simple("changes the region when storing", "each key goes with its own slot", ChangesTheRegionWhenStoring),
  simple("says STORED and forgets", "a stored block comes back", SaysStoredAndForgets),
  simple("fails without a code", "a key that was never stored is a MISS", FailsWithoutACode),
  simple("fails the second of two equal keys", "a key twice in a store", RefusesKeysTwice),
  simple("handles the first 256 keys of a batch", "a large batch comes back whole", HandlesTheFirst256Keys),
  simple("leaves the group out of the key", "the same hash in different groups", ForgetsTheGroup),
  simple("takes keys for UTF-8", "keys of any bytes are kept apart", TakesKeysForText),
  simple("ignores case", "keys of any bytes are kept apart", IgnoresCase),
  simple("says HIT always", "lookup says HIT for what is stored and MISS", SaysHitAlways),
  simple("says PENDING after the store has ended", "lookup while a store is under way", StaysPending),
  simple("answers lookups in another order", "lookup says HIT for what is stored and MISS", AnswersLookupsSorted),
  simple("shows blocks that are half written", "a load during the store of its key", ShowsHalfABlock),
  simple("counts bytes that are not there", "usage counts every block", CountsWrong),
  simple("never frees", "usage counts every block", NeverFrees),
  simple("says REMOVED and keeps the block", "remove takes away what it names", RemovesNothing),
  simple("leaves out the last page of a scan", "scan lists every block once", ScansWithoutTheLastPage),
  simple("ignores the page size", "scan lists every block once", IgnoresThePageSize),
  simple("skips blocks when others go", "scan lists what stays exactly once", RestartsTheScanAfterChanges),
  simple("shares blocks between namespaces", "namespaces over one storage", ForgetsTheNamespace),
  simple("finds nothing of what was there before", "what was stored is there after", ForgetsWhatWasThere),
  {
    mistake: "says durable and keeps nothing",
    caughtBy: "what was stored is there after",
    factory: {
      async create() {
        const make = (): MemoryBackend => new MemoryBackend({ storage: createMemoryStorage() });
        return { backend: make(), reopen: async () => make(), cleanup: async () => {} };
      },
    },
  },
  { mistake: "says LOADED for damaged payloads", caughtBy: "a flipped bit in its payload", factory: blind },
  { mistake: "says LOADED for damaged footers", caughtBy: "a flipped bit in its footer", factory: blind },
  {
    mistake: "keeps a damaged block for ever",
    caughtBy: "a block that was CORRUPT can be stored again",
    factory: memoryStack({ wrap: (inner) => new IntegrityLayer(inner), capabilities: { remove: false } }),
  },
  {
    mistake: "says STORED when the storage is full",
    caughtBy: "a full storage says NO_SPACE",
    factory: {
      async create() {
        const backend = new HidesThatThereIsNoSpace(new MemoryBackend());
        const noSpace = async (): Promise<void> => void backend.fail("store", "NO_SPACE");
        return { backend, damage: { noSpace }, cleanup: async () => {} };
      },
    },
  },
  {
    mistake: "takes a leftover for a block",
    caughtBy: "what a dead writer leaves behind",
    factory: {
      async create() {
        const storage = createMemoryStorage();
        const backend = new MemoryBackend({ storage });
        const leaveTempFile = async (): Promise<void> => {
          const space = storage.get(backend.context.namespace.digestHex);
          space?.blocks.set("tmp", { bytes: new Uint8Array(10), storedAtMs: 1, usedAtMs: 1 });
        };
        return {
          backend,
          reopen: async () => new MemoryBackend({ storage }),
          damage: { leaveTempFile },
          cleanup: async () => {},
        };
      },
    },
  },
  {
    mistake: "promises durable without a way to show it",
    caughtBy: "what was stored is there after",
    factory: {
      create: async () => ({ backend: new MemoryBackend({ storage: createMemoryStorage() }), cleanup: async () => {} }),
    },
  },
  {
    mistake: "promises verification without hooks to show it",
    caughtBy: "a flipped bit in its payload",
    factory: overStorage((storage) => new IntegrityLayer(new MemoryBackend({ storage }))),
  },
];

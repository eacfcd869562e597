import { getEventListeners } from "node:events";
import { describe, expect, it } from "vitest";
import {
  type AuthorContext,
  type AuthorOptions,
  type AuthorScanOptions,
  type BatchResult,
  type BlockBatch,
  createMemoryRegion,
  defineManifest,
  type KeyBatch,
  KvferryError,
  LookupState,
  type ManifestInput,
  OffloadBackend,
  type OpenContext,
  Outcome,
  outcomeCode,
  packKeys,
  type ScanPage,
  uniformResult,
} from "../src/index.js";
import { namespace } from "./fixtures.js";

const context: OpenContext = { namespace, keyBytes: 8, blockBytes: 16 };
const keys = packKeys([Uint8Array.of(1, 2, 3, 4, 0, 0, 0, 0), Uint8Array.of(5, 6, 7, 8, 0, 0, 0, 1)]);
const batch: BlockBatch = { keys, region: createMemoryRegion(4, 16), slots: Uint32Array.of(3, 0) };

/** A promise that the test settles. */
function gate<T = void>() {
  let open: (value: T) => void = () => {};
  let fail: (error: unknown) => void = () => {};
  const promise = new Promise<T>((resolve, reject) => {
    open = resolve;
    fail = reject;
  });
  return { promise, open, fail };
}

/** Every author's method can be replaced. */
class Probe extends OffloadBackend {
  readonly log: string[] = [];
  seen: AuthorOptions | undefined;
  onOpen: (context: AuthorContext) => Promise<void> = async () => {};
  onCall: (options: AuthorOptions) => Promise<BatchResult> = async () => uniformResult(2, Outcome.STORED);
  onLookup: () => Promise<Uint8Array> = async () => Uint8Array.of(LookupState.HIT, LookupState.MISS);
  onScan: (options: AuthorScanOptions) => AsyncIterable<ScanPage> = async function* () {};
  onClose: () => Promise<void> = async () => {};

  constructor(manifest: Partial<ManifestInput> = {}) {
    super(defineManifest({ name: "probe", capabilities: { scan: true, remove: true, usage: true }, ...manifest }));
  }

  announce(removed: KeyBatch): void {
    this.announceRemoved(removed, "evicted");
  }

  protected override _open(given: AuthorContext): Promise<void> {
    this.log.push("open");
    return this.onOpen(given);
  }
  protected override async _lookup(_keys: KeyBatch, options: AuthorOptions): Promise<Uint8Array> {
    this.log.push("lookup");
    this.seen = options;
    return this.onLookup();
  }
  protected override _store(_batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#called("store", options);
  }
  protected override _load(_batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#called("load", options);
  }
  protected override _remove(_keys: KeyBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#called("remove", options);
  }
  protected override _scan(options: AuthorScanOptions): AsyncIterable<ScanPage> {
    this.log.push("scan");
    return this.onScan(options);
  }
  protected override _close(): Promise<void> {
    this.log.push("close");
    return this.onClose();
  }

  #called(name: string, options: AuthorOptions): Promise<BatchResult> {
    this.log.push(name);
    this.seen = options;
    return this.onCall(options);
  }
}

async function opened(manifest?: Partial<ManifestInput>): Promise<Probe> {
  const probe = new Probe(manifest);
  await probe.open(context);
  return probe;
}

const code = (expected: string) => expect.objectContaining({ name: "KvferryError", code: expected });

describe("misuse", () => {
  it("never reaches the author", async () => {
    const probe = await opened({ limits: { batchKeysMax: 2 } });
    const three = packKeys([new Uint8Array(8), new Uint8Array(8), new Uint8Array(8)]);
    const wrong: BlockBatch[] = [
      { ...batch, keys: packKeys([new Uint8Array(9), new Uint8Array(9)]) },
      { ...batch, keys: { ...keys, count: 1 } },
      { ...batch, keys: { ...keys, count: 2.5 } },
      { ...batch, keys: three, slots: Uint32Array.of(0, 1, 2) },
      { ...batch, slots: Uint32Array.of(0) },
      { ...batch, slots: Uint32Array.of(0, 4) },
      { ...batch, region: { ...batch.region, rowBytes: 15 } },
      { ...batch, region: { ...batch.region, rows: 5 } },
    ];
    for (const each of wrong) {
      await expect(probe.store(each)).rejects.toEqual(code("INVALID_ARGUMENT"));
      await expect(probe.load(each)).rejects.toEqual(code("INVALID_ARGUMENT"));
    }
    for (const deadlineMs of [-1, Number.NaN]) {
      await expect(probe.load(batch, { deadlineMs })).rejects.toEqual(code("INVALID_ARGUMENT"));
    }
    for (const pageEntriesMax of [0, 1.5, -1, Number.NaN]) {
      expect(() => probe.scan({ pageEntriesMax })).toThrow(code("INVALID_ARGUMENT") as never);
    }
    expect(probe.log).toEqual(["open"]);
  });

  it("of open is refused, and says which field", async () => {
    const limits = { blockBytesMin: 16, blockBytesMax: 32, keyBytesMax: 36 };
    const wrong = [
      ["blockBytes", 15],
      ["blockBytes", 33],
      ["blockBytes", 16.5],
      ["keyBytes", 4],
      ["keyBytes", 37],
    ] as const;
    for (const [field, value] of wrong) {
      const open = new Probe({ limits }).open({ ...context, [field]: value });
      await expect(open).rejects.toMatchObject({ code: "INVALID_ARGUMENT", context: { field } });
    }
  });

  it("of the order of calls is refused", async () => {
    const probe = new Probe();
    await expect(probe.lookup(keys)).rejects.toEqual(code("NOT_OPEN"));
    expect(() => probe.scan()).toThrow(code("NOT_OPEN") as never);
    expect(() => probe.context).toThrow(code("NOT_OPEN") as never);
    await probe.open(context);
    await expect(probe.open(context)).rejects.toEqual(code("INVALID_ARGUMENT"));
    await probe.close();
    await expect(probe.lookup(keys)).rejects.toEqual(code("CLOSED"));
    expect(() => probe.scan()).toThrow(code("CLOSED") as never);
    await expect(probe.open(context)).rejects.toEqual(code("INVALID_ARGUMENT"));
  });

  it("of a capability that is false is UNSUPPORTED, and of a promise that nobody kept INTERNAL", async () => {
    const without = await opened({ capabilities: {} });
    await expect(without.remove(keys)).rejects.toEqual(code("UNSUPPORTED"));
    await expect(without.usage()).rejects.toEqual(code("UNSUPPORTED"));
    expect(() => without.scan()).toThrow(code("UNSUPPORTED") as never);
    await expect((await opened()).usage()).rejects.toEqual(code("INTERNAL"));
  });
});

describe("a call", () => {
  it("gives the author its signal and priority", async () => {
    const probe = await opened();
    await probe.store(batch);
    expect(probe.seen).toEqual({ signal: undefined, priority: "store" });
    const { signal } = new AbortController();
    await probe.load(batch, { signal });
    expect(probe.seen).toEqual({ signal, priority: "load" });
    await probe.load(batch, { priority: "store" });
    expect(probe.seen?.priority).toBe("store");
  });

  it("that is empty does not reach the author", async () => {
    const probe = await opened();
    const none = packKeys([], 8);
    expect((await probe.store({ ...batch, keys: none, slots: new Uint32Array(0) })).outcomes).toHaveLength(0);
    expect(await probe.lookup(none)).toHaveLength(0);
    expect(probe.log).toEqual(["open"]);
  });

  it("whose signal is aborted already does not reach the author", async () => {
    const probe = await opened();
    const result = await probe.load(batch, { signal: AbortSignal.abort("any reason") });
    expect([...result.outcomes]).toEqual([Outcome.FAILED, Outcome.FAILED]);
    expect(outcomeCode(result, 1)).toBe("ABORTED");
    expect(outcomeCode(await probe.store(batch, { deadlineMs: 0 }), 0)).toBe("DEADLINE");
    await expect(probe.lookup(keys, { signal: AbortSignal.abort() })).rejects.toEqual(code("ABORTED"));
    await expect(probe.lookup(keys, { deadlineMs: 0 })).rejects.toEqual(code("DEADLINE"));
    expect(probe.log).toEqual(["open"]);
  });

  it("aborts the author's signal at the deadline, and takes the signal's reason for an outcome", async () => {
    const probe = await opened();
    probe.onCall = ({ signal }) =>
      new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason)));
    const result = await probe.load(batch, { deadlineMs: 5 });
    expect(outcomeCode(result, 0)).toBe("DEADLINE");
    const controller = new AbortController();
    const loading = probe.load(batch, { signal: controller.signal, deadlineMs: 10_000 });
    controller.abort();
    expect(outcomeCode(await loading, 0)).toBe("ABORTED");
    expect(getEventListeners(controller.signal, "abort")).toHaveLength(0);
  });

  it("leaves nothing on the caller's signal", async () => {
    const probe = await opened();
    const { signal } = new AbortController();
    await probe.store(batch, { signal, deadlineMs: 10_000 });
    expect(getEventListeners(signal, "abort")).toHaveLength(0);
  });

  it("waits for the author after the deadline: the slots are still in use", async () => {
    const probe = await opened();
    const { promise, open } = gate<BatchResult>();
    probe.onCall = () => promise;
    let over = false;
    const loading = probe.load(batch, { deadlineMs: 1 }).then((result) => {
      over = true;
      return result;
    });
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(over).toBe(false);
    open(uniformResult(2, Outcome.LOADED));
    expect([...(await loading).outcomes]).toEqual([Outcome.LOADED, Outcome.LOADED]);
  });

  it("that throws becomes a KvferryError with the code of the errno", async () => {
    const probe = await opened();
    probe.onCall = async () => {
      throw Object.assign(new Error("write failed"), { code: "ENOSPC", path: "/data/x" });
    };
    await expect(probe.store(batch)).rejects.toMatchObject({
      ...{ code: "NO_SPACE", operation: "store", context: { backend: "probe", path: "/data/x" } },
    });
    probe.onCall = async () => {
      throw new KvferryError("UNAVAILABLE", "gone");
    };
    await expect(probe.store(batch)).rejects.toEqual(code("UNAVAILABLE"));
    expect(probe.inFlight).toBe(0);
  });

  it("with an answer of the wrong length is INTERNAL: outcomes would go to the wrong keys", async () => {
    const probe = await opened();
    probe.onCall = async () => uniformResult(1, Outcome.STORED);
    await expect(probe.store(batch)).rejects.toEqual(code("INTERNAL"));
    probe.onCall = async () => ({ outcomes: new Uint8Array(2), codes: new Uint8Array(3) });
    await expect(probe.remove(keys)).rejects.toEqual(code("INTERNAL"));
    probe.onLookup = async () => new Uint8Array(3);
    await expect(probe.lookup(keys)).rejects.toEqual(code("INTERNAL"));
  });
});

describe("open", () => {
  it("closes what a failed one has begun, and reports the first error", async () => {
    const probe = new Probe();
    probe.onOpen = async () => {
      throw Object.assign(new Error("no"), { code: "EACCES" });
    };
    probe.onClose = async () => {
      throw new Error("second");
    };
    await expect(probe.open(context)).rejects.toEqual(code("PERMISSION"));
    expect(probe.log).toEqual(["open", "close"]);
    expect(probe.state).toBe("closed");
    await probe.close();
    expect(probe.log).toEqual(["open", "close"]);
  });

  it("ends with the signal's code", async () => {
    const probe = new Probe();
    const controller = new AbortController();
    probe.onOpen = async ({ signal }) => {
      controller.abort(new Error("enough"));
      signal?.throwIfAborted();
    };
    await expect(probe.open({ ...context, signal: controller.signal })).rejects.toEqual(code("ABORTED"));
    expect(probe.log).toEqual(["open", "close"]);
  });

  it("gives the author a logger and a clock when nobody gave one", async () => {
    const probe = new Probe();
    let given: AuthorContext | undefined;
    probe.onOpen = async (each) => {
      given = each;
    };
    await probe.open(context);
    expect(given?.clock.nowMs()).toBeCloseTo(Date.now(), -3);
    given?.logger.warn({}, "to nobody");
  });
});

describe("close", () => {
  it("waits for calls under way, then releases once", async () => {
    const probe = await opened();
    const { promise, open } = gate<BatchResult>();
    probe.onCall = () => promise;
    const storing = probe.store(batch);
    const closing = [probe.close(), probe.close()];
    expect(probe.state).toBe("closing");
    await expect(probe.store(batch)).rejects.toEqual(code("CLOSED"));
    expect(probe.log).not.toContain("close");
    open(uniformResult(2, Outcome.STORED));
    await storing;
    await Promise.all(closing);
    expect(probe.log.filter((each) => each === "close")).toHaveLength(1);
    expect(probe.state).toBe("closed");
  });

  it("while opening waits for it, and no call gets in between", async () => {
    const probe = new Probe();
    const { promise, open } = gate();
    probe.onOpen = () => promise;
    const opening = probe.open(context);
    const closing = probe.close();
    open();
    await opening;
    await expect(probe.store(batch)).rejects.toEqual(code("CLOSED"));
    await closing;
    expect(probe.log).toEqual(["open", "close"]);
  });

  it("while an open fails is no error of close", async () => {
    const probe = new Probe();
    const { promise, fail } = gate();
    probe.onOpen = () => promise;
    const opening = probe.open(context);
    const closing = probe.close();
    fail(new Error("no"));
    await expect(opening).rejects.toEqual(code("INTERNAL"));
    await closing;
    expect(probe.log).toEqual(["open", "close"]);
  });

  it("reports what went wrong in releasing, and is closed all the same", async () => {
    const probe = await opened();
    probe.onClose = async () => {
      throw new Error("busy");
    };
    await expect(probe.close()).rejects.toThrow("busy");
    expect(probe.state).toBe("closed");
  });

  it("without open touches nothing", async () => {
    const probe = new Probe();
    await probe.close();
    expect(probe.log).toEqual([]);
    await expect(probe.open(context)).rejects.toEqual(code("INVALID_ARGUMENT"));
  });
});

describe("scan", () => {
  const page: ScanPage = [{ key: new Uint8Array(8), bytes: 1, storedAtMs: 1, usedAtMs: 1 }];

  it("is begun with the first page, and ended when the reader stops", async () => {
    const probe = await opened();
    let released = 0;
    probe.onScan = async function* () {
      try {
        for (;;) yield page;
      } finally {
        released++;
      }
    };
    probe.scan();
    expect(probe.log).toEqual(["open"]);
    for await (const _ of probe.scan()) break;
    expect(released).toBe(1);
    expect(probe.inFlight).toBe(0);
  });

  it("does not hold up close while its reader pauses; the author's part is ended before the backend is", async () => {
    const probe = await opened();
    probe.onScan = async function* () {
      try {
        for (;;) yield page;
      } finally {
        probe.log.push("scan ended");
      }
    };
    const pages = probe.scan();
    await pages.next();
    await probe.close();
    expect(probe.log).toEqual(["open", "scan", "scan ended", "close"]);
    await expect(pages.next()).rejects.toEqual(code("CLOSED"));
  });

  it("holds up close while a page is being read", async () => {
    const probe = await opened();
    const { promise, open } = gate();
    probe.onScan = async function* () {
      await promise;
      yield page;
    };
    const reading = probe.scan().next();
    const closing = probe.close();
    await new Promise((resolve) => setImmediate(resolve));
    expect(probe.log).toEqual(["open", "scan"]);
    open();
    expect((await reading).value).toBe(page);
    await closing;
  });

  it("ends with ABORTED between pages, and with a KvferryError when the author throws", async () => {
    const probe = await opened();
    let released = false;
    probe.onScan = async function* () {
      try {
        for (;;) yield page;
      } finally {
        released = true;
      }
    };
    const controller = new AbortController();
    const pages = probe.scan({ signal: controller.signal });
    await pages.next();
    controller.abort();
    await expect(pages.next()).rejects.toEqual(code("ABORTED"));
    expect(released).toBe(true);
    expect((await pages.next()).done).toBe(true);
    probe.onScan = () => {
      throw Object.assign(new Error("readdir"), { code: "EIO" });
    };
    await expect(probe.scan().next()).rejects.toEqual(code("IO"));
    expect(probe.inFlight).toBe(0);
  });
});

describe("removal events", () => {
  it("reach every listener until it stops, also when one throws", async () => {
    const probe = await opened();
    const heard: string[] = [];
    probe.onRemoved(() => {
      throw new Error("a listener's own trouble");
    });
    const stop = probe.onRemoved(({ count }, reason) => heard.push(`${count} ${reason}`));
    probe.announce(keys);
    stop();
    probe.announce(keys);
    expect(heard).toEqual(["2 evicted"]);
  });
});

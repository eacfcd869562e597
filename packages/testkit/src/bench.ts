import assert from "node:assert/strict";
import {
  type BatchResult,
  type BlockBatch,
  type CallOptions,
  createMemoryRegion,
  createNamespace,
  GROUP_BYTES,
  type KeyBatch,
  keyHex,
  LookupState,
  type Namespace,
  type OffloadBackend,
  type OpenContext,
  Outcome,
  outcomeCode,
  outcomeName,
  packKeys,
  type Region,
  type ScanEntry,
  type ScanOptions,
  slotBytes,
} from "@kvferry/core";
import type { CreatedBackend } from "./factory.js";
import { patternBytes, seededBytes } from "./random.js";

/** Written to memory before a call, to see afterwards what was touched. */
export const SENTINEL = 0xa5;

/** Contents kept for the next comparison. */
const CONTENTS_BYTES_MAX = 8 * 1024 * 1024;

type Operation = "store" | "load" | "remove";

const allowed: Readonly<Record<Operation, readonly Outcome[]>> = {
  store: [Outcome.STORED, Outcome.PRESENT, Outcome.DROPPED, Outcome.FAILED],
  load: [Outcome.LOADED, Outcome.MISS, Outcome.CORRUPT, Outcome.FAILED],
  remove: [Outcome.REMOVED, Outcome.MISS, Outcome.FAILED],
};
const withoutCode: readonly number[] = [Outcome.STORED, Outcome.PRESENT, Outcome.LOADED, Outcome.REMOVED];

export interface Loaded {
  readonly result: BatchResult;
  readonly region: Region;
}

let namespaces = 0;

/** A namespace that no other test uses, also not over storage that is shared by several runs. */
export function freshNamespace(tenant: string = `${process.pid}-${Date.now()}-${namespaces++}`): Namespace {
  return createNamespace({
    model: "kvferry/conformance",
    weights: "c0".repeat(32),
    dtype: "bfloat16",
    kvDtype: "auto",
    layout: "conformance",
    tokensPerHash: 16,
    blocksPerChunk: 1,
    groups: [{ tokensPerBlock: 16, layers: ["layers.0", "layers.1"] }],
    parallel: null,
    engine: "conformance",
    engineVersion: "1",
    formatVersion: 1,
    tenant,
  });
}

/** What `open` gets from the kit. */
export function contextOf(namespace: Namespace, blockBytes: number, keyBytes: number): OpenContext {
  return { namespace, blockBytes, keyBytes };
}

/** An open backend with the means to ask it things. Blocks go by a number, from which follow their key and their bytes; every answer is
 * checked for its form on the way. */
export class Bench {
  readonly created: CreatedBackend;
  readonly backend: OffloadBackend;
  readonly namespace: Namespace;
  readonly blockBytes: number;
  readonly keyBytes: number;
  readonly #contents: Map<number, Uint8Array> = new Map();

  constructor(
    created: CreatedBackend,
    backend: OffloadBackend,
    namespace: Namespace,
    blockBytes: number,
    keyBytes: number,
  ) {
    this.created = created;
    this.backend = backend;
    this.namespace = namespace;
    this.blockBytes = blockBytes;
    this.keyBytes = keyBytes;
  }

  key(id: number, group = 0): Uint8Array {
    const key = seededBytes(id + 0x10000, this.keyBytes);
    new DataView(key.buffer).setUint32(this.keyBytes - GROUP_BYTES, group);
    // short hashes would collide by chance
    for (let i = 0; i < Math.min(4, this.keyBytes - GROUP_BYTES); i++) key[i] = (id >>> (8 * i)) & 0xff;
    return key;
  }

  keys(ids: readonly number[]): KeyBatch {
    return packKeys(
      ids.map((id) => this.key(id)),
      this.keyBytes,
    );
  }

  content(id: number): Uint8Array {
    const known = this.#contents.get(id);
    if (known !== undefined) return known;
    const made = patternBytes(id, this.blockBytes);
    if (this.#contents.size * this.blockBytes < CONTENTS_BYTES_MAX) this.#contents.set(id, made);
    return made;
  }

  /** A region of sentinels. */
  region(rows: number, rowBytes: number = this.blockBytes): Region {
    const region = createMemoryRegion(rows, rowBytes);
    region.bytes.fill(SENTINEL);
    return region;
  }

  /** Block `ids[i]` in slot i. */
  filled(ids: readonly number[], rowBytes?: number): BlockBatch {
    const region = this.region(Math.max(1, ids.length), rowBytes);
    for (const [slot, id] of ids.entries()) region.bytes.set(this.content(id), slot * region.rowBytes);
    return this.batch(ids, region);
  }

  batch(ids: readonly number[], region: Region, slots: ArrayLike<number> = ids.map((_, i) => i)): BlockBatch {
    return { keys: this.keys(ids), region, slots: Uint32Array.from(slots) };
  }

  async store(ids: readonly number[], options?: CallOptions): Promise<BatchResult> {
    return this.storeBatch(this.filled(ids), options);
  }

  async storeBatch(batch: BlockBatch, options?: CallOptions): Promise<BatchResult> {
    return checked("store", await this.backend.store(batch, options), batch.keys);
  }

  /** Into slot i of a region of sentinels. */
  async load(ids: readonly number[], options?: CallOptions): Promise<Loaded> {
    const region = this.region(Math.max(1, ids.length));
    return { region, result: await this.loadBatch(this.batch(ids, region), options) };
  }

  async loadBatch(batch: BlockBatch, options?: CallOptions): Promise<BatchResult> {
    return checked("load", await this.backend.load(batch, options), batch.keys);
  }

  async remove(ids: readonly number[], options?: CallOptions): Promise<BatchResult> {
    const keys = this.keys(ids);
    return checked("remove", await this.backend.remove(keys, options), keys);
  }

  async lookup(ids: readonly number[], options?: CallOptions): Promise<Uint8Array> {
    const states = await this.backend.lookup(this.keys(ids), options);
    assert.equal(states.length, ids.length, "lookup must answer every key");
    for (const state of states) assert.ok(state <= LookupState.PENDING, `${state} is no lookup state`);
    return states;
  }

  async scan(options?: ScanOptions): Promise<ScanEntry[]> {
    const entries: ScanEntry[] = [];
    for await (const page of this.backend.scan(options)) entries.push(...page);
    return entries;
  }

  /** Stores blocks, each of which must be new and must be taken. */
  async mustStore(ids: readonly number[]): Promise<void> {
    assertOutcomes(
      await this.store(ids),
      ids.map(() => Outcome.STORED),
      "store of new blocks",
    );
  }

  /** Loads blocks, each of which must come back with its own bytes. */
  async mustLoad(ids: readonly number[], why = "load of stored blocks"): Promise<void> {
    const { result, region } = await this.load(ids);
    assertOutcomes(
      result,
      ids.map(() => Outcome.LOADED),
      why,
    );
    this.assertContents(region, ids, why);
  }

  async mustMiss(ids: readonly number[], why = "load of blocks that are not there"): Promise<void> {
    const { result } = await this.load(ids);
    assertOutcomes(
      result,
      ids.map(() => Outcome.MISS),
      why,
    );
  }

  /** Slot `slots[i]` must hold block `ids[i]`. */
  assertContents(
    region: Region,
    ids: readonly number[],
    why: string,
    slots: ArrayLike<number> = ids.map((_, i) => i),
  ): void {
    for (const [i, id] of ids.entries()) {
      const found = slotBytes(region, slots[i] as number, this.blockBytes);
      assert.ok(
        Buffer.from(this.content(id)).equals(found),
        `${why}: slot ${slots[i]} does not hold the bytes of block ${id}`,
      );
    }
  }

  /** Of a load that may have ended early: whatever says LOADED must hold its bytes. */
  assertLoadedContents({ result, region }: Loaded, ids: readonly number[], why: string): void {
    for (const [i, id] of ids.entries()) {
      if (result.outcomes[i] === Outcome.LOADED) this.assertContents(region, [id], why, [i]);
    }
  }

  hex(id: number): string {
    return keyHex(this.key(id));
  }
}

/** The form of a result: lengths, outcomes that the operation has, codes where they belong. */
function checked(operation: Operation, result: BatchResult, keys: KeyBatch): BatchResult {
  assert.equal(result.outcomes.length, keys.count, `${operation} must have an outcome for every key`);
  assert.equal(result.codes.length, keys.count, `${operation} must have a code for every key`);
  for (const [i, outcome] of result.outcomes.entries()) {
    const name = outcomeName(outcome);
    assert.ok(allowed[operation].includes(outcome as Outcome), `${name} is no outcome of a ${operation}`);
    if (outcome === Outcome.FAILED)
      assert.ok(result.codes[i] !== 0, `key ${i} of a ${operation} is FAILED without a code`);
    if (withoutCode.includes(outcome))
      assert.equal(result.codes[i], 0, `key ${i} is ${name} and has a code all the same`);
  }
  return result;
}

/** "STORED", "FAILED(IO)", … */
export function describeOutcome(result: BatchResult, index: number): string {
  const code = outcomeCode(result, index);
  return outcomeName(result.outcomes[index] as number) + (code === undefined ? "" : `(${code})`);
}

/** Each key's outcome must be the expected one, or one of those expected. */
export function assertOutcomes(
  result: BatchResult,
  expected: readonly (Outcome | readonly Outcome[])[],
  why: string,
): void {
  assert.equal(result.outcomes.length, expected.length, `${why}: an outcome for every key`);
  for (const [i, each] of expected.entries()) {
    const among = typeof each === "number" ? [each] : each;
    const names = among.map(outcomeName).join(" or ");
    assert.ok(
      among.includes(result.outcomes[i] as Outcome),
      `${why}: key ${i} is ${describeOutcome(result, i)}, not ${names}`,
    );
  }
}

/** Every key must have failed with this code. */
export function assertAllFailed(result: BatchResult, code: string, why: string): void {
  for (let i = 0; i < result.outcomes.length; i++) {
    assert.equal(describeOutcome(result, i), `FAILED(${code})`, `${why}: key ${i}`);
  }
}

/** The call must reject (or throw) with a KvferryError of one of these codes. */
export async function assertRejects(
  call: () => unknown,
  codes: string | readonly string[],
  why: string,
): Promise<void> {
  const among = typeof codes === "string" ? [codes] : codes;
  let thrown: unknown;
  try {
    await call();
  } catch (error) {
    thrown = error;
  }
  assert.ok(thrown !== undefined, `${why}: nothing was thrown, expected ${among.join(" or ")}`);
  const { name, code, message } = thrown as { name?: unknown; code?: unknown; message?: unknown };
  assert.equal(name, "KvferryError", `${why}: ${String(message)} is no KvferryError`);
  assert.ok(
    among.includes(code as string),
    `${why}: the code is ${String(code)} (${String(message)}), not ${among.join(" or ")}`,
  );
}

/** Nothing has been written to the region since it was filled with sentinels. */
export function isUntouched(region: Region): boolean {
  return Buffer.alloc(region.bytes.length, SENTINEL).equals(region.bytes);
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** 0, 1, … count - 1, or from `first` on. */
export function numbers(count: number, first = 0): number[] {
  return Array.from({ length: count }, (_, i) => first + i);
}

import { setTimeout as sleep } from "node:timers/promises";
import {
  type BatchResult,
  type BlockBatch,
  type Clock,
  createMemoryRegion,
  createNamespace,
  type KeyBatch,
  LookupState,
  type Namespace,
  Outcome,
  packKeys,
  type Region,
  type RemovalReason,
  slotBytes,
  systemClock,
} from "@kvferry/core";
import { afterEach, expect } from "vitest";
import { HostArena, type HostArenaOptions, HostMemoryBackend } from "../src/index.js";

export const KEY_BYTES = 8;
export const PAGE = 4096;

export function namespaceOf(tenant: string): Namespace {
  return createNamespace({
    ...{ model: "m", weights: "00".repeat(32), dtype: "d", kvDtype: "d", layout: "l", tokensPerHash: 1 },
    ...{ blocksPerChunk: 1, groups: [{ tokensPerBlock: 1, layers: ["0"] }], parallel: null },
    ...{ engine: "e", engineVersion: "1", formatVersion: 1, tenant },
  });
}

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

export function arenaOf(options: HostArenaOptions): HostArena {
  const arena = new HostArena(options);
  closing.push(() => arena.close());
  return arena;
}

/** A namespace over an arena; blocks go by a number. */
export class Space {
  readonly backend: HostMemoryBackend;
  readonly blockBytes: number;
  readonly gone: [number, RemovalReason][] = [];
  /** Outcomes that there was no reason for. */
  readonly trouble: number[] = [];

  private constructor(backend: HostMemoryBackend, blockBytes: number) {
    this.backend = backend;
    this.blockBytes = blockBytes;
    backend.onRemoved((keys, reason) =>
      this.gone.push(...idsOf(keys).map((id): [number, RemovalReason] => [id, reason])),
    );
  }

  static async open(
    arena: HostArena,
    tenant = "a",
    blockBytes: number = PAGE,
    clock: Clock = systemClock,
  ): Promise<Space> {
    const backend = new HostMemoryBackend({ arena, policy: "lru" });
    await backend.open({ namespace: namespaceOf(tenant), keyBytes: KEY_BYTES, blockBytes, clock });
    closing.push(() => backend.close());
    return new Space(backend, blockBytes);
  }

  keys(ids: readonly number[]): KeyBatch {
    return packKeys(
      ids.map((id) => new Uint8Array(Uint32Array.of(id, 0).buffer)),
      KEY_BYTES,
    );
  }

  content(id: number): Uint8Array {
    const content = new Uint8Array(this.blockBytes).fill((id * 37 + 11) & 0xff);
    new DataView(content.buffer).setUint32(0, id, true);
    return content;
  }

  batch(ids: readonly number[], region: Region = createMemoryRegion(ids.length, this.blockBytes)): BlockBatch {
    return { keys: this.keys(ids), region, slots: Uint32Array.from(ids, (_, i) => i) };
  }

  async store(ids: readonly number[]): Promise<BatchResult> {
    const batch = this.batch(ids);
    for (const [i, id] of ids.entries()) batch.region.bytes.set(this.content(id), i * this.blockBytes);
    return this.backend.store(batch);
  }

  /** The outcomes; what is LOADED must be right. */
  async load(ids: readonly number[]): Promise<number[]> {
    const batch = this.batch(ids);
    const { outcomes } = await this.backend.load(batch);
    this.check(ids, batch.region, outcomes);
    return [...outcomes];
  }

  check(ids: readonly number[], region: Region, outcomes: Uint8Array): void {
    for (const [i, id] of ids.entries()) {
      if (outcomes[i] !== Outcome.LOADED) continue;
      expect(Buffer.from(slotBytes(region, i)).equals(this.content(id)), `bytes of block ${id}`).toBe(true);
    }
  }

  /** Reads whatever is about to go, after a while. */
  watchEvictions(): void {
    this.backend.onEvicting(async ({ keys, load }) => {
      await sleep(Math.random() * 2);
      const slots = Uint32Array.from(numbers(keys.count));
      const region = createMemoryRegion(keys.count, this.blockBytes);
      const { outcomes } = await load(slots, region, slots);
      this.check(idsOf(keys), region, outcomes);
      for (const outcome of outcomes) if (outcome !== Outcome.LOADED) this.trouble.push(outcome);
    });
  }

  has(ids: readonly number[]): number[] {
    return ids.filter((_, i) => this.backend.lookupNow(this.keys(ids))?.[i] === LookupState.HIT);
  }
}

export function idsOf({ bytes, count, stride }: KeyBatch): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: count }, (_, i) => view.getUint32(i * stride, true));
}

export const numbers = (count: number, first: number = 0): number[] =>
  Array.from({ length: count }, (_, i) => first + i);

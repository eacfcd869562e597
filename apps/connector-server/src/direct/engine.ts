import type { HostMemoryBackend } from "@kvferry/backend-host-memory";
import {
  type BatchResult,
  type KeyBatch,
  KvferryError,
  type OffloadBackend,
  Outcome,
  selectKeys,
  uniformResult,
} from "@kvferry/core";
import type { Device, MappedRegion } from "@kvferry/native";
import type { ServerMessage } from "@kvferry/protocol";
import type { NamespaceStorage } from "../storage/storage.js";
import { Assemblies, type TicketPart } from "./assemblies.js";
import type { DirectCounts } from "./counts.js";
import { EngineHolds } from "./engine-holds.js";
import { holdBlocks } from "./hold-blocks.js";
import { type Pages, selectPages } from "./pages.js";
import type { DirectStaging } from "./staging.js";

/** What all connections of an engine say alike. */
export interface EngineShape {
  readonly engine: string;
  /** Hex digest of the namespace. */
  readonly namespace: string;
  readonly keyBytes: number;
  readonly blockBytes: number;
  readonly parts: number;
  readonly partBytes: number;
}

export interface DirectEngineOptions {
  readonly shape: EngineShape;
  readonly memory: HostMemoryBackend;
  readonly storage: NamespaceStorage;
  readonly staging: DirectStaging;
  readonly counts: DirectCounts;
  /** Ms that a request may take. */
  readonly deadlineMs: number;
  /** Bytes that the keys of open tickets may take. */
  readonly keyBytesMax: number;
}

/** What HOLD is answered with. */
export interface EngineHeld {
  readonly result: BatchResult;
  readonly offsets: Float64Array;
}

/** A worker's place in its engine. */
export interface WorkerPlace {
  /** It is about to get the arena. */
  isReady(): void;
  /** To be called once. */
  leave(): void;
}

interface Listener {
  send(message: ServerMessage): void;
}

/** One engine in direct mode: what it holds in the arena, and the chunks that its workers' parts are put together to. It outlives its connections for a while. */
export class DirectEngine {
  readonly shape: EngineShape;
  readonly backend: OffloadBackend;
  readonly #options: DirectEngineOptions;
  readonly #holds: EngineHolds;
  readonly #assemblies: Assemblies;
  /** The connections of its scheduler, the newest last: the others are about to end. */
  readonly #schedulers: Set<Listener> = new Set();
  /** Parts that a connected worker stores. */
  readonly #storing: Set<number> = new Set();
  #workers = 0;

  constructor(options: DirectEngineOptions) {
    const { shape, storage, staging, counts, deadlineMs, keyBytesMax } = options;
    this.shape = shape;
    this.backend = storage.backend;
    this.#options = options;
    this.#holds = new EngineHolds(options.memory);
    this.#assemblies = new Assemblies({
      parts: shape.parts,
      partBytes: shape.partBytes,
      rows: staging.gathers,
      counts,
      deadlineMs,
      keyBytesMax,
      known: (keys) => known(storage, keys),
      store: (keys, slots) => storage.backend.store({ keys, region: staging.gathers.region, slots }, { deadlineMs }),
      stored: (ticket, { outcomes, codes }) => this.#tell({ t: "stored", ticket, outcomes, codes }),
    });
  }

  /** Memory in which its chunks are put together. */
  get gatherRegion(): MappedRegion {
    return this.#options.staging.gathers.region;
  }

  get status(): { schedulers: number; workers: number; heldBlocks: number; tickets: number } {
    const [schedulers, workers] = [this.#schedulers.size, this.#workers];
    return { schedulers, workers, heldBlocks: this.#holds.blocks, tickets: this.#assemblies.count };
  }

  /** Lets a scheduler hear of what was stored. Returns the way to stop. */
  addScheduler(listener: Listener): () => void {
    this.#schedulers.add(listener);
    return () => this.#schedulers.delete(listener);
  }

  /** Takes a place for a worker.
   * @throws KvferryError BUSY if another worker stores that part. */
  addWorker(part: number, stores: boolean): WorkerPlace {
    if (stores && this.#storing.has(part)) {
      throw new KvferryError("BUSY", `another worker of engine '${this.shape.engine}' has part ${part}`, {
        operation: "hello",
        context: { field: "direct.part" },
      });
    }
    if (stores) this.#storing.add(part);
    let isThere = false;
    return {
      isReady: () => {
        isThere = true;
        this.#workers++;
      },
      leave: () => {
        if (stores) this.#storing.delete(part);
        if (isThere) this.#workers--;
      },
    };
  }

  /** Holds blocks in the arena; they are the engine's until `release`.
   * @param workers that must be connected: one that has not the arena could not load if the server ended. */
  async hold(keys: KeyBatch, workers: number, signal: AbortSignal): Promise<EngineHeld> {
    if (this.#workers < workers) {
      const result = uniformResult(keys.count, Outcome.FAILED, "BUSY");
      return { result, offsets: new Float64Array(keys.count) };
    }
    const { memory, staging, counts, deadlineMs } = this.#options;
    const parts = { memory, backend: this.backend, staging: staging.loads, counts };
    const held = await holdBlocks(parts, keys, { signal, deadlineMs });
    this.#holds.add(keys, held);
    return held;
  }

  /** Takes back what an answer to HOLD says that nobody got. */
  giveBack(keys: KeyBatch, { outcomes }: BatchResult): void {
    const held: number[] = [];
    for (let i = 0; i < keys.count; i++) if (outcomes[i] === Outcome.LOADED) held.push(i);
    this.release(selectKeys(keys, held));
  }

  /** Takes back one hold of each key. */
  release(keys: KeyBatch): void {
    this.#holds.release(keys);
  }

  gather(part: TicketPart, signal: AbortSignal): Promise<BatchResult> {
    return this.#assemblies.gather(part, signal);
  }

  /** Copies a part of held blocks into a worker's memory. LOADED, MISS (not held), FAILED. */
  async scatter(keys: KeyBatch, part: number, device: Device, pages: Pages, signal: AbortSignal): Promise<BatchResult> {
    const { counts, memory, shape } = this.#options;
    const use = this.#holds.use(keys);
    try {
      const held: number[] = [];
      for (let i = 0; i < keys.count; i++) if (use.offsets[i] !== -1) held.push(i);
      const result = uniformResult(keys.count, Outcome.MISS);
      if (held.length === 0) return result;
      const copied = await device.scatter({
        host: memory.arena.region.bytes,
        hostOffsets: Float64Array.from(held, (i) => (use.offsets[i] as number) + part * shape.partBytes),
        ...selectPages(pages, keys.count, held),
        signal,
      });
      for (const [k, i] of held.entries()) {
        result.outcomes[i] = copied.outcomes[k] as number;
        result.codes[i] = copied.codes[k] as number;
        if (copied.outcomes[k] !== Outcome.LOADED) continue;
        counts.scatteredParts++;
        counts.scatteredBytes += shape.partBytes;
      }
      return result;
    } finally {
      use.end();
    }
  }

  /** All connections have ended: no part comes any more. */
  disconnected(): void {
    this.#assemblies.endAll();
  }

  /** Gives up what it holds. Its connections have ended. */
  async end(): Promise<void> {
    this.#assemblies.endAll();
    await this.#assemblies.idle();
    this.#holds.releaseAll();
  }

  #tell(message: ServerMessage): void {
    [...this.#schedulers].pop()?.send(message);
  }
}

/** What a tier that can be asked is known to have: no tier is asked, and it is no use of a block. */
async function known({ fills, tiers }: NamespaceStorage, keys: KeyBatch): Promise<Uint8Array> {
  let up = 0;
  for (const [number, { circuit }] of tiers.entries()) if (circuit() === "closed") up |= 1 << number;
  return (await fills.tiersOf(keys)).map((bits) => bits & up);
}

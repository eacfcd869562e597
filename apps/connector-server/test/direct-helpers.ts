import { join } from "node:path";
import { type KeyBatch, keyAt, type NamespaceFields } from "@kvferry/core";
import { closeFd, createRegion, type MappedRegion } from "@kvferry/native";
import {
  type Chunks,
  type DirectMemory,
  DirectSchedulerClient,
  type DirectTensor,
  DirectWorkerClient,
  type SchedulerConnectOptions,
  type StoredMessage,
  type WorkerConnectOptions,
} from "@kvferry/protocol";
import { onTestFinished } from "vitest";
import type { ServerConfig, ServerOptions } from "../src/index.js";
import { KEY_BYTES, namespace, scratch, serve, type TestServer, until } from "./helpers.js";

/** Two tensors, two blocks a chunk: a part has four pages. What is left of a block behind two parts is zeros. */
const PAGE_BYTES = 1024;
export const BLOCKS_PER_CHUNK = 2;
const TENSORS = 2;
export const PART_BYTES: number = PAGE_BYTES * TENSORS * BLOCKS_PER_CHUNK;
export const PARTS = 2;
export const CHUNK_BYTES: number = PARTS * PART_BYTES + 1000;
/** Pages of a tensor, twice as many as a worker uses for one purpose. */
export const PAGES = 512;
const STRIDE_BYTES: number = TENSORS * PAGE_BYTES;
export const MEMORY_BYTES: number = PAGES * STRIDE_BYTES;

const tensors: readonly DirectTensor[] = [0, 1].map((i) => ({
  memory: 0,
  offset: i * PAGE_BYTES,
  strideBytes: STRIDE_BYTES,
  pageBytes: PAGE_BYTES,
  pages: PAGES,
}));
export const layout: Pick<WorkerConnectOptions, "tensors" | "groups" | "blocksPerChunk"> = {
  tensors,
  groups: [tensors.map((_, tensor) => ({ tensor, bytes: PAGE_BYTES }))],
  blocksPerChunk: BLOCKS_PER_CHUNK,
};

export const MiB: number = 2 ** 20;

/** A server with an arena over a folder. */
export async function serveDirect(config: ServerConfig = {}, options: ServerOptions = {}): Promise<TestServer> {
  const root = join(scratch(), "blocks");
  const tiers = [
    { backend: "memory" as const, capacity: 8 * MiB },
    { backend: "posix" as const, root },
  ];
  const served = await serve({ tiers, ...config }, options);
  return { ...served, root };
}

export interface EngineIdentity {
  readonly socket: string;
  readonly engine: string;
  readonly parts: number;
  readonly partBytes: number;
  readonly namespace: NamespaceFields;
  readonly keyBytes: number;
  readonly blockBytes: number;
}

let engines = 0;

export function newEngine(socket: string, changes: Partial<EngineIdentity> = {}): EngineIdentity {
  engines++;
  const sizes = { parts: PARTS, partBytes: PART_BYTES, keyBytes: KEY_BYTES, blockBytes: CHUNK_BYTES };
  return { socket, engine: `engine-${process.pid}-${engines}`, namespace, ...sizes, ...changes };
}

export interface TestScheduler {
  readonly client: DirectSchedulerClient;
  readonly stored: StoredMessage[];
  /** The outcomes of a ticket, when they have come. */
  outcomesOf(ticket: number): Promise<number[]>;
}

export async function connectScheduler(
  engine: EngineIdentity,
  options: Partial<SchedulerConnectOptions> = {},
): Promise<TestScheduler> {
  const stored: StoredMessage[] = [];
  const client = await DirectSchedulerClient.connect({
    ...engine,
    onStored: (message) => stored.push(message),
    ...options,
  });
  onTestFinished(() => client.close());
  const find = (ticket: number): StoredMessage | undefined => stored.find((each) => each.ticket === ticket);
  return {
    client,
    stored,
    async outcomesOf(ticket) {
      await until(() => find(ticket) !== undefined, 20_000);
      return [...(find(ticket)?.outcomes ?? [])];
    },
  };
}

/** A worker's memory, mapped here: `fill` puts chunks into pages, `holds` looks whether they are there. */
export class WorkerPages {
  readonly region: MappedRegion;
  readonly part: number;

  constructor(region: MappedRegion, part: number) {
    this.region = region;
    this.part = part;
  }

  fill(keys: KeyBatch, firstPage = 0): Chunks {
    for (let i = 0; i < keys.count; i++) {
      const bytes = partPattern(keys, i, this.part);
      for (const [n, page] of this.#places(i, firstPage).entries()) {
        this.region.bytes.set(bytes.subarray(n * PAGE_BYTES, (n + 1) * PAGE_BYTES), page);
      }
    }
    return this.chunks(keys, firstPage);
  }

  chunks(keys: KeyBatch, firstPage = 0): Chunks {
    const blocks = Uint32Array.from({ length: keys.count * BLOCKS_PER_CHUNK }, (_, i) => firstPage + i);
    return { keys, groups: new Uint32Array(keys.count), blocks };
  }

  /** Whether the pages from `firstPage` on hold this part of chunk `index`. */
  holds(keys: KeyBatch, index: number, firstPage = 0): boolean {
    const bytes = partPattern(keys, index, this.part);
    return this.#places(index, firstPage).every((page, n) => {
      const found = this.region.bytes.subarray(page, page + PAGE_BYTES);
      return Buffer.compare(found, bytes.subarray(n * PAGE_BYTES, (n + 1) * PAGE_BYTES)) === 0;
    });
  }

  clear(): void {
    this.region.bytes.fill(0xee);
  }

  /** Where the pages of a chunk are, in the order in which they are in a part: tensor after tensor. */
  #places(index: number, firstPage: number): number[] {
    return tensors.flatMap(({ offset }) =>
      Array.from(
        { length: BLOCKS_PER_CHUNK },
        (_, block) => offset + (firstPage + index * BLOCKS_PER_CHUNK + block) * STRIDE_BYTES,
      ),
    );
  }
}

export interface TestWorker {
  readonly client: DirectWorkerClient;
  readonly pages: WorkerPages;
  /** The arena, as this worker may see it: a descriptor. */
  readonly arenaFd: number;
}

/** A worker of this process, with shared memory. */
export async function connectWorker(
  engine: EngineIdentity,
  part: number,
  options: Partial<WorkerConnectOptions> = {},
): Promise<TestWorker> {
  const region = createRegion({ rows: 1, rowBytes: MEMORY_BYTES });
  const memory: DirectMemory = { kind: "region", memories: [{ bytes: MEMORY_BYTES }] };
  const client = await DirectWorkerClient.connect({ ...engine, ...layout, part, memory, fds: [region.fd], ...options });
  onTestFinished(async () => {
    await client.close();
    closeFd(client.arenaFd);
    region.close();
  });
  return { client, pages: new WorkerPages(region, part), arenaFd: client.arenaFd };
}

export interface TestEngine {
  readonly identity: EngineIdentity;
  readonly scheduler: TestScheduler;
  readonly workers: readonly TestWorker[];
}

/** An engine with all of its workers, or with the first ones. */
export async function connectEngine(socket: string, workers: number = PARTS): Promise<TestEngine> {
  const identity = newEngine(socket);
  const scheduler = await connectScheduler(identity, { workers });
  const connected: TestWorker[] = [];
  for (let part = 0; part < workers; part++) connected.push(await connectWorker(identity, part));
  return { identity, scheduler, workers: connected };
}

let tickets = 1000; // tests have small ones of their own

/** Stores chunks by all workers; their outcomes. */
export async function storeChunks({ scheduler, workers }: TestEngine, keys: KeyBatch): Promise<number[]> {
  tickets++;
  const ticket = tickets;
  await Promise.all(workers.map(({ client, pages }) => client.gather(ticket, pages.fill(keys))));
  return scheduler.outcomesOf(ticket);
}

/** One sample of a metric. */
export async function metricOf({ server }: TestServer, sample: string): Promise<number | undefined> {
  const lines = (await server.metrics()).split("\n");
  const line = lines.find((each) => each.startsWith(`${sample} `));
  return line === undefined ? undefined : Number(line.slice(sample.length + 1));
}

/** Bytes that follow from a key and a part. */
function partPattern(keys: KeyBatch, index: number, part: number): Buffer {
  return Buffer.alloc(PART_BYTES, Buffer.concat([keyAt(keys, index), Buffer.of(part, 0x5a)]));
}

/** A whole chunk, as it lies in the tiers. */
export function chunkPattern(keys: KeyBatch, index: number): Buffer {
  const parts = Array.from({ length: PARTS }, (_, part) => partPattern(keys, index, part));
  return Buffer.concat([...parts, Buffer.alloc(CHUNK_BYTES - PARTS * PART_BYTES)]);
}

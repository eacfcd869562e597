/** What tests of devices share: an engine, host memory that holds 0xaa, another process's memory, and what a copy of it must come to. */
import { afterAll, afterEach, beforeAll, beforeEach } from "vitest";
import {
  createFileEngine,
  createRegion,
  type DeviceCopies,
  type DeviceLayout,
  type DeviceMemory,
  type FileEngine,
  type MappedRegion,
  NO_BLOCK,
} from "../src/index.js";
import { type Peer, startPeer } from "./peer.js";

export const KiB = 1024;
/** Two tensors of 64 pages, interleaved in one memory; group 0 uses both, group 1 the start of the second's pages. */
export const LAYOUT: DeviceLayout = {
  tensors: [
    { memory: 0, offset: 64, strideBytes: 3000, pageBytes: 1000, pages: 64 },
    { memory: 0, offset: 1500, strideBytes: 3000, pageBytes: 1400, pages: 64 },
  ],
  groups: [
    [
      { tensor: 0, bytes: 1000 },
      { tensor: 1, bytes: 1400 },
    ],
    [{ tensor: 1, bytes: 900 }],
  ],
  blocksPerChunk: 3,
};
export const PART: number = 3 * 2400;
export const MEMORY: number = 256 * KiB;

export let engine: FileEngine;
export let host: MappedRegion;
export let peer: Peer;

beforeAll(async () => {
  peer = await startPeer(MEMORY);
});

afterAll(async () => {
  peer.memory.close();
  await peer.kill();
});

beforeEach(() => {
  engine = createFileEngine({ threads: 3 });
  host = createRegion({ rows: 64, rowBytes: 8 * KiB });
  host.bytes.fill(0xaa);
  for (let i = 0; i < MEMORY; i++) peer.memory.bytes[i] = (i * 31 + (i >> 8) * 7 + 1) & 255;
});

afterEach(async () => {
  await engine.close();
  host.close();
});

export function memoryOf(kind: "process" | "region"): DeviceMemory {
  if (kind === "region") return { kind, memories: [peer.memory] };
  return { kind, pid: peer.pid, memories: [{ address: peer.address, bytes: MEMORY }] };
}

/** One chunk of each row of pages, one after the other in the host memory. */
export function chunks(groups: readonly number[], blocks: readonly (readonly number[])[]): DeviceCopies {
  return {
    host: host.bytes,
    hostOffsets: Float64Array.from(groups, (_, i) => i * PART),
    groups: Uint32Array.from(groups),
    blocks: Uint32Array.from(blocks.flat()),
  };
}

/** What `types.ts` says, page by page: calls `each` with the places of every page that a chunk has. */
export function forPages(
  layout: DeviceLayout,
  group: number,
  blocks: readonly number[],
  each: (memory: number, at: number, hostAt: number, bytes: number) => void,
): void {
  let column = 0;
  for (const [t, tensor] of layout.tensors.entries()) {
    const use = layout.groups[group]?.find(({ tensor: number }) => number === t);
    for (let i = 0; i < layout.blocksPerChunk; i++) {
      const page = blocks[i] as number;
      if (use === undefined || page === NO_BLOCK) continue;
      const hostAt = column + i * tensor.pageBytes;
      each(tensor.memory, tensor.offset + page * tensor.strideBytes, hostAt, use.bytes);
    }
    column += layout.blocksPerChunk * tensor.pageBytes;
  }
}

export function gathered(
  layout: DeviceLayout,
  memories: readonly Uint8Array[],
  group: number,
  blocks: readonly number[],
): Buffer {
  const part = Buffer.alloc(layout.tensors.reduce((sum, { pageBytes }) => sum + pageBytes, 0) * layout.blocksPerChunk);
  forPages(layout, group, blocks, (memory, at, hostAt, bytes) => {
    part.set((memories[memory] as Uint8Array).subarray(at, at + bytes), hostAt);
  });
  return part;
}

/** Many chunks of one page each, all to the same place. */
export function manyChunks(chunks: number): DeviceCopies {
  return {
    host: host.bytes,
    hostOffsets: new Float64Array(chunks),
    groups: new Uint32Array(chunks),
    blocks: Uint32Array.from({ length: 3 * chunks }, (_, i) => i % 64),
  };
}

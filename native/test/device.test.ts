import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, expect, test } from "vitest";
import {
  createFileEngine,
  createRegion,
  type Device,
  type DeviceCopies,
  type DeviceLayout,
  type DeviceMemory,
  type FileEngine,
  type MappedRegion,
  mapRegionPath,
  NO_BLOCK,
} from "../src/index.js";
import {
  ABORTED_CODE,
  BUSY_CODE,
  CLOSED_CODE,
  count,
  DEVICE_FAILED_CODE,
  DEVICE_LOST_CODE,
  FAILED,
  LOADED,
  REGION_GONE_CODE,
  STORED,
  scratch,
} from "./helpers.js";
import { type Peer, startPeer, startSleeper } from "./peer.js";

const KiB = 1024;
/** Two tensors of 64 pages, interleaved in one memory; group 0 uses both, group 1 the start of the second's pages. */
const LAYOUT: DeviceLayout = {
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
const PART = 3 * 2400;
const MEMORY = 256 * KiB;

let engine: FileEngine;
let host: MappedRegion;
let peer: Peer;

beforeEach(async () => {
  engine = createFileEngine({ threads: 3 });
  host = createRegion({ rows: 64, rowBytes: 8 * KiB });
  host.bytes.fill(0xaa);
  peer = await startPeer(MEMORY);
  for (let i = 0; i < MEMORY; i++) peer.memory.bytes[i] = (i * 31 + (i >> 8) * 7 + 1) & 255;
});

afterEach(async () => {
  await engine.close();
  host.close();
  peer.memory.close();
  await peer.kill();
});

function memoryOf(kind: "process" | "region"): DeviceMemory {
  if (kind === "region") return { kind, memories: [peer.memory] };
  return { kind, pid: peer.pid, memories: [{ address: peer.address, bytes: MEMORY }] };
}

/** One chunk of each row of pages, one after the other in the host memory. */
function chunks(groups: readonly number[], blocks: readonly (readonly number[])[]): DeviceCopies {
  return {
    host: host.bytes,
    hostOffsets: Float64Array.from(groups, (_, i) => i * PART),
    groups: Uint32Array.from(groups),
    blocks: Uint32Array.from(blocks.flat()),
  };
}

/** What `types.ts` says, page by page: calls `each` with the places of every page that a chunk has. */
function forPages(
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

function gathered(
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

for (const kind of ["process", "region"] as const) {
  test(`${kind}: chunks are gathered whole, and what is not there is zeros, not another's bytes`, async () => {
    const device = await engine.openDevice({ memory: memoryOf(kind), layout: LAYOUT, hostRegions: [host] });
    expect(device.partBytes).toBe(PART);
    const groups = [0, 1, 0, 1, 0];
    const blocks = [
      [5, 6, 7],
      [63, NO_BLOCK, 0],
      [NO_BLOCK, 9, NO_BLOCK],
      [NO_BLOCK, NO_BLOCK, NO_BLOCK],
      [7, 7, 1],
    ];
    const { outcomes } = await device.gather(chunks(groups, blocks));
    expect([...outcomes]).toEqual(groups.map(() => STORED));
    for (const [i, group] of groups.entries()) {
      const part = host.bytes.subarray(i * PART, (i + 1) * PART);
      const wanted = gathered(LAYOUT, [peer.memory.bytes], group, blocks[i] as number[]);
      expect(Buffer.compare(part, wanted)).toBe(0);
    }
    expect(host.bytes.subarray(5 * PART).every((byte) => byte === 0xaa)).toBe(true);
    await device.close();
  });

  test(`${kind}: a scatter writes the pages that are there and nothing else`, async () => {
    const device = await engine.openDevice({ memory: memoryOf(kind), layout: LAYOUT });
    for (let i = 0; i < host.bytes.length; i++) host.bytes[i] = (i * 13) & 255;
    const groups = [0, 1];
    const blocks = [
      [10, NO_BLOCK, 0],
      [NO_BLOCK, 63, 20],
    ];
    const wanted = Buffer.from(peer.memory.bytes);
    for (const [i, group] of groups.entries()) {
      forPages(LAYOUT, group, blocks[i] as number[], (_, at, hostAt, bytes) => {
        wanted.set(host.bytes.subarray(i * PART + hostAt, i * PART + hostAt + bytes), at);
      });
    }
    expect([...(await device.scatter(chunks(groups, blocks))).outcomes]).toEqual([LOADED, LOADED]);
    expect(Buffer.compare(peer.memory.bytes, wanted)).toBe(0);
    await device.close();
  });

  test(`${kind}: host memory that was cut short costs its own copies only`, async () => {
    const path = join(scratch(), "region");
    writeFileSync(path, Buffer.alloc(64 * KiB, 1));
    const cut = mapRegionPath(path, { rows: 8, rowBytes: 8 * KiB });
    const device = await engine.openDevice({ memory: memoryOf(kind), layout: LAYOUT });
    const copies = chunks(
      [0, 1],
      [
        [1, 2, 3],
        [4, 5, 6],
      ],
    );
    expect(count((await device.gather({ ...copies, host: cut.bytes })).outcomes, STORED)).toBe(2);
    truncateSync(path, 0);
    for (const call of [device.gather, device.scatter]) {
      const { codes } = await call.call(device, { ...copies, host: cut.bytes });
      expect([...codes]).toEqual([REGION_GONE_CODE, REGION_GONE_CODE]);
    }
    expect(count((await device.gather(copies)).outcomes, STORED)).toBe(2);
    await device.close();
    cut.close();
  });
}

/** Memory of another process and of regions, copied as direct mode does. That the model is right page by page is tested in C++ as well, with random layouts. */
import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
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
  type OpenDeviceOptions,
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

/** Many chunks of one page each, all to the same place. */
function manyChunks(chunks: number): DeviceCopies {
  return {
    host: host.bytes,
    hostOffsets: new Float64Array(chunks),
    groups: new Uint32Array(chunks),
    blocks: Uint32Array.from({ length: 3 * chunks }, (_, i) => i % 64),
  };
}

test("host memory beyond 4 GiB is reached, and an offset beyond a shorter view is not", async () => {
  const rowBytes = 2 ** 31;
  const large = createRegion({ rows: 3, rowBytes });
  const far = mapRegionPath(`/proc/self/fd/${large.fd}`, { rows: 1, rowBytes: 8 * KiB, offset: 5 * 2 ** 30 });
  const device = await engine.openDevice({ memory: memoryOf("process"), layout: LAYOUT, hostRegions: [large] });
  const copies = { ...chunks([0], [[1, 2, 3]]), host: large.bytes, hostOffsets: Float64Array.of(5 * 2 ** 30) };
  expect([...(await device.gather(copies)).outcomes]).toEqual([STORED]);
  expect(Buffer.compare(far.bytes.subarray(0, PART), gathered(LAYOUT, [peer.memory.bytes], 0, [1, 2, 3]))).toBe(0);
  await expect(device.gather({ ...copies, host: large.bytes.subarray(0, 4096) })).rejects.toMatchObject({
    context: { field: "hostOffsets" },
  });
  await device.close();
  far.close();
  large.close();
});

test("host memory may be JavaScript's own", async () => {
  const own = new Uint8Array(PART + 10).fill(0xaa);
  const device = await engine.openDevice({ memory: memoryOf("process"), layout: LAYOUT });
  await device.gather({ ...chunks([1], [[1, NO_BLOCK, 3]]), host: own, hostOffsets: Float64Array.of(7) });
  const wanted = gathered(LAYOUT, [peer.memory.bytes], 1, [1, NO_BLOCK, 3]);
  expect(Buffer.compare(own.subarray(7, 7 + PART), wanted)).toBe(0);
  expect([...own.subarray(0, 7), ...own.subarray(7 + PART)]).toEqual(new Array(10).fill(0xaa));
  await device.close();
});

test("an engine whose calls can be given up waits for copies all the same", async () => {
  const abandonable = createFileEngine({ threads: 2, abandonable: true });
  const device = await abandonable.openDevice({ memory: memoryOf("process"), layout: LAYOUT });
  const abort = new AbortController();
  const running = device.gather({ ...manyChunks(20_000), signal: abort.signal });
  abort.abort();
  await running;
  host.bytes.fill(0xaa);
  expect((await device.gather(chunks([0], [[1, 2, 3]]))).outcomes[0]).toBe(STORED);
  expect(host.bytes.subarray(PART).every((byte) => byte === 0xaa)).toBe(true);
  await device.close();
  await abandonable.close();
});

test("copies that are aborted or do not fit the queue end without a chunk lost from sight", async () => {
  const small = createFileEngine({ threads: 1, queueDepthMax: 8 });
  const busy = await small.openDevice({ memory: memoryOf("process"), layout: LAYOUT });
  expect(count((await busy.gather(manyChunks(20_000))).codes, BUSY_CODE)).toBe(20_000);
  await busy.close();
  await small.close();
  const device = await engine.openDevice({ memory: memoryOf("process"), layout: LAYOUT });
  const abort = new AbortController();
  const running = [device.gather, device.scatter].map((call) =>
    call.call(device, { ...manyChunks(50_000), signal: abort.signal }),
  );
  abort.abort();
  let aborted = 0;
  for (const { outcomes, codes } of await Promise.all(running)) {
    aborted += count(outcomes, FAILED);
    expect(count(codes, ABORTED_CODE)).toBe(count(outcomes, FAILED));
  }
  expect(aborted).toBeGreaterThan(0);
  expect([...(await device.gather({ ...manyChunks(2), signal: abort.signal })).codes]).toEqual([6, 6]);
  await device.close();
});

test("after close nothing moves, and what waited is CLOSED", async () => {
  const device = await engine.openDevice({ memory: memoryOf("process"), layout: LAYOUT });
  const running = [1, 2, 3].map(() => device.gather(manyChunks(50_000)));
  let settled = 0;
  for (const each of running) void each.then(() => settled++);
  const closed = device.close();
  expect(device.close()).toBe(closed);
  await closed;
  expect(settled).toBe(3);
  host.bytes.fill(0x55);
  let ended = 0;
  for (const { outcomes, codes } of await Promise.all(running)) {
    ended += count(codes, CLOSED_CODE);
    expect(count(outcomes, STORED) + count(codes, CLOSED_CODE)).toBe(50_000);
  }
  expect(ended).toBeGreaterThan(0);
  expect([...(await device.scatter(manyChunks(2))).codes]).toEqual([CLOSED_CODE, CLOSED_CODE]);
  await new Promise((done) => setTimeout(done, 50));
  expect(host.bytes.every((byte) => byte === 0x55)).toBe(true);
});

test("a device outlives its engine only as something that says CLOSED", async () => {
  const short = createFileEngine({ threads: 1 });
  const device = await short.openDevice({ memory: memoryOf("region"), layout: LAYOUT });
  await short.close();
  expect([...(await device.gather(manyChunks(2))).codes]).toEqual([CLOSED_CODE, CLOSED_CODE]);
  await device.close();
  await expect(short.openDevice({ memory: memoryOf("region"), layout: LAYOUT })).rejects.toMatchObject({
    code: "CLOSED",
  });
});

test("an engine that cuts its memory short loses its own chunks only", async () => {
  const path = join(scratch(), "memory");
  writeFileSync(path, Buffer.alloc(MEMORY, 1));
  const cut = mapRegionPath(path, { rows: 1, rowBytes: MEMORY });
  const device = await engine.openDevice({ memory: { kind: "region", memories: [cut] }, layout: LAYOUT });
  const other = await engine.openDevice({ memory: memoryOf("region"), layout: LAYOUT });
  truncateSync(path, 0);
  const copies = chunks([0], [[1, 2, 3]]);
  expect([...(await device.gather(copies)).codes]).toEqual([REGION_GONE_CODE]);
  expect([...(await device.scatter(copies)).codes]).toEqual([REGION_GONE_CODE]);
  expect([...(await other.gather(copies)).outcomes]).toEqual([STORED]);
  await device.close();
  await other.close();
  cut.close();
});

type Change = (options: { memory: DeviceMemory; layout: DeviceLayout; hostRegions?: unknown }) => unknown;
const tensor = (change: object): Change => {
  return ({ layout, ...rest }) => ({
    ...rest,
    layout: { ...layout, tensors: [layout.tensors[0], { ...layout.tensors[1], ...change }] },
  });
};
const layout = (change: object): Change => {
  return (options) => ({ ...options, layout: { ...options.layout, ...change } });
};
const memory = (change: object): Change => {
  return (options) => ({ ...options, memory: { ...options.memory, ...change } });
};
const refused: readonly (readonly [string, Change])[] = [
  ["layout.tensors[1].memory", tensor({ memory: 1 })],
  ["layout.tensors[1].offset", tensor({ offset: -1 })],
  ["layout.tensors[1].offset", tensor({ offset: MEMORY + 1 })],
  ["layout.tensors[1].strideBytes", tensor({ strideBytes: 1399 })],
  ["layout.tensors[1].pageBytes", tensor({ pageBytes: 0 })],
  ["layout.tensors[1].pageBytes", tensor({ pageBytes: "1" })],
  ["layout.tensors[1].pages", tensor({ pages: 100 })],
  ["layout.tensors[1].pages", tensor({ pages: 2 ** 32 })],
  ["layout.tensors[1].pages", tensor({ pages: 2 ** 31, strideBytes: 2 ** 53 - 1 })],
  ["layout.tensors[0]", layout({ tensors: [null] })],
  ["layout.tensors", layout({ tensors: [] })],
  ["layout.tensors", layout({ tensors: "many" })],
  ["layout.groups", layout({ groups: [] })],
  ["layout.groups[0]", layout({ groups: [7] })],
  [
    "layout.groups[0]",
    layout({
      groups: [
        [
          { tensor: 1, bytes: 1 },
          { tensor: 1, bytes: 2 },
        ],
      ],
    }),
  ],
  ["layout.groups[0][0].tensor", layout({ groups: [[{ tensor: 2, bytes: 1 }]] })],
  ["layout.groups[0][0].bytes", layout({ groups: [[{ tensor: 0, bytes: 1001 }]] })],
  ["layout.blocksPerChunk", layout({ blocksPerChunk: 0 })],
  ["layout.blocksPerChunk", layout({ blocksPerChunk: 65_537 })],
  ["layout", (options) => ({ ...options, layout: undefined })],
  ["memory", (options) => ({ ...options, memory: undefined })],
  ["memory.kind", memory({ kind: "tape" })],
  ["memory.memories", memory({ memories: undefined })],
  ["memory.memories[0].bytes", memory({ memories: [{ address: 4096, bytes: 0 }] })],
  ["memory.memories[0].bytes", memory({ memories: [{ address: 2 ** 53, bytes: 1 }] })],
  ["memory.memories[0].address", memory({ memories: [{ address: 0.5, bytes: 1 }] })],
  ["memory.memories[0]", memory({ kind: "region", memories: [{ rows: 1 }] })],
  ["memory.uuid", memory({ kind: "cuda", uuid: new Uint8Array(15) })],
  ["memory.memories[0].handle", memory({ kind: "cuda", uuid: new Uint8Array(16), memories: [{ handle: "" }] })],
  ["hostRegions[0]", (options) => ({ ...options, hostRegions: [{}] })],
];

test.each(refused)("what cannot be opened is refused by the name of its field: %s", async (field, change) => {
  const options = change({ memory: memoryOf("process"), layout: LAYOUT }) as OpenDeviceOptions;
  await expect(engine.openDevice(options)).rejects.toMatchObject({ code: "INVALID_ARGUMENT", context: { field } });
});

test("a region that was closed is not opened", async () => {
  const closed = createRegion({ rows: 1, rowBytes: MEMORY });
  closed.close();
  const options: OpenDeviceOptions = { memory: { kind: "region", memories: [closed] }, layout: LAYOUT };
  await expect(engine.openDevice(options)).rejects.toMatchObject({ context: { field: "memory.memories[0]" } });
});

test("copies that do not fit are refused by the name of what is wrong, before a byte moves", async () => {
  const device = await engine.openDevice({ memory: memoryOf("process"), layout: LAYOUT });
  const good = chunks(
    [0, 1],
    [
      [1, 2, 3],
      [4, 5, 6],
    ],
  );
  const cases: [string, object][] = [
    ["hostOffsets", { hostOffsets: Float64Array.of(0) }],
    ["hostOffsets", { hostOffsets: Float64Array.of(0, host.bytes.length - PART + 1) }],
    ["hostOffsets", { hostOffsets: Float64Array.of(0, -1) }],
    ["hostOffsets", { hostOffsets: Float64Array.of(0, 0.5) }],
    ["hostOffsets", { hostOffsets: Float64Array.of(0, Number.NaN) }],
    ["hostOffsets", { hostOffsets: new Uint32Array(2) }],
    ["groups", { groups: Uint32Array.of(0, 2) }],
    ["groups", { groups: [0, 1] }],
    ["blocks", { blocks: new Uint32Array(5) }],
    ["blocks", { blocks: Uint32Array.of(0, 0, 0, 0, 0, 64) }],
    ["blocks", { blocks: Uint32Array.of(0, 0, 0, 0, 0, NO_BLOCK - 1) }],
    ["host", { host: host.bytes.buffer }],
  ];
  for (const [field, change] of cases) {
    const call = device.gather({ ...good, ...change });
    await expect(call, JSON.stringify(change)).rejects.toMatchObject({ code: "INVALID_ARGUMENT", context: { field } });
  }
  expect(host.bytes.every((byte) => byte === 0xaa)).toBe(true);
  const none = { ...chunks([], []) };
  expect((await device.gather(none)).outcomes.length).toBe(0);
  await device.close();
});

test("what cannot be reached is refused with the code that says why", async () => {
  const open = (memory: DeviceMemory): Promise<Device> => engine.openDevice({ memory, layout: LAYOUT });
  const memories = [{ address: peer.address, bytes: MEMORY }];
  const notMapped = { kind: "process", pid: peer.pid, memories: [{ address: 4096, bytes: MEMORY }] } as const;
  await expect(open(notMapped)).rejects.toMatchObject({
    code: "DEVICE_FAILED",
    context: { field: "memory.memories[0]", errno: "EFAULT" },
  });
  const hidden = open({ kind: "process", pid: 0, memories });
  await expect(hidden).rejects.toMatchObject({ code: "PERMISSION", message: expect.stringContaining("tier mode") });
  const other = await startPeer(MEMORY);
  await other.kill();
  await expect(open({ kind: "process", pid: other.pid, memories })).rejects.toMatchObject({ code: "DEVICE_LOST" });
  other.memory.close();
});

test("pages that the other process does not have are DEVICE_FAILED, and its others go on", async () => {
  const sleeper = await startSleeper();
  // Both ends are there, and nothing half way between them.
  const bytes = sleeper.address + sleeper.bytes - sleeper.lowest;
  const strideBytes = Math.floor(bytes / 2);
  const device = await engine.openDevice({
    memory: { kind: "process", pid: sleeper.pid, memories: [{ address: sleeper.lowest, bytes }] },
    layout: {
      tensors: [{ memory: 0, offset: 0, strideBytes, pageBytes: 4096, pages: 2 }],
      groups: [[{ tensor: 0, bytes: 4096 }]],
      blocksPerChunk: 1,
    },
  });
  const copies = { host: host.bytes, hostOffsets: Float64Array.of(0, 4096, 8192), groups: new Uint32Array(3) };
  const { codes } = await device.gather({ ...copies, blocks: Uint32Array.of(0, 1, 0) });
  expect([...codes]).toEqual([0, DEVICE_FAILED_CODE, 0]);
  await device.close();
  await sleeper.kill();
});

test("200 processes killed in mid-copy are lost, and nothing hangs or is called good that is not", async () => {
  let lost = 0;
  for (let round = 0; round < 200; round++) {
    const sleeper = await startSleeper();
    const pages = Math.floor(sleeper.bytes / 4096);
    const device = await engine.openDevice({
      memory: { kind: "process", pid: sleeper.pid, memories: [{ address: sleeper.address, bytes: sleeper.bytes }] },
      layout: {
        tensors: [{ memory: 0, offset: 0, strideBytes: 4096, pageBytes: 4096, pages }],
        groups: [[{ tensor: 0, bytes: 4096 }]],
        blocksPerChunk: pages,
      },
    });
    const blocks = Uint32Array.from({ length: 64 * pages }, (_, i) => (i * 7) % pages);
    const hostOffsets = new Float64Array(64);
    const copies = { host: host.bytes, hostOffsets, groups: new Uint32Array(64), blocks };
    const calls = Array.from({ length: 6 }, (_, i) => (i % 3 === 2 ? device.scatter(copies) : device.gather(copies)));
    await Promise.any(calls);
    const end = sleeper.kill();
    for (const { outcomes, codes } of await Promise.all(calls)) {
      lost += count(codes, DEVICE_LOST_CODE);
      expect(count(outcomes, STORED) + count(outcomes, LOADED) + count(codes, DEVICE_LOST_CODE)).toBe(64);
    }
    await end;
    expect(count((await device.gather(copies)).codes, DEVICE_LOST_CODE)).toBe(64);
    await device.close();
  }
  expect(lost).toBeGreaterThan(0);
}, 120_000);

test("a GPU that this process does not see is refused, whether there are others or none", async () => {
  const uuid = new Uint8Array(16);
  const memories = [{ handle: new Uint8Array(64), offset: 0, bytes: MEMORY }];
  const opening = engine.openDevice({ memory: { kind: "cuda", uuid, memories }, layout: LAYOUT });
  await expect(opening).rejects.toMatchObject({ code: expect.stringMatching(/^(UNSUPPORTED|INVALID_ARGUMENT)$/) });
});

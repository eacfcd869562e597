/** Devices that cannot be opened, copies that cannot be meant, and processes that end in the middle of them. */
import { expect, test } from "vitest";
import {
  createRegion,
  type Device,
  type DeviceLayout,
  type DeviceMemory,
  NO_BLOCK,
  type OpenDeviceOptions,
} from "../src/index.js";
import { chunks, engine, host, LAYOUT, MEMORY, memoryOf, PART, peer } from "./device-fixture.js";
import { count, DEVICE_FAILED_CODE, DEVICE_LOST_CODE, LOADED, STORED } from "./helpers.js";
import { startPeer, startSleeper } from "./peer.js";

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

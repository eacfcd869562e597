/** Copies between host memory and an engine's own, as direct mode makes them. C++ tests do the same with random layouts. */
import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { createFileEngine, createRegion, mapRegionPath, NO_BLOCK } from "../src/index.js";
import {
  chunks,
  engine,
  forPages,
  gathered,
  host,
  KiB,
  LAYOUT,
  MEMORY,
  manyChunks,
  memoryOf,
  PART,
  peer,
} from "./device-fixture.js";
import {
  ABORTED_CODE,
  BUSY_CODE,
  CLOSED_CODE,
  count,
  FAILED,
  LOADED,
  REGION_GONE_CODE,
  STORED,
  scratch,
} from "./helpers.js";

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

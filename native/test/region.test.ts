import { closeSync, openSync, readSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { checksumImplementation, closeFd, crc32c, createRegion, mapRegionFd, mapRegionPath } from "../src/index.js";
import { codeOf, scratch } from "./helpers.js";

test("a region is memory that others can map", () => {
  const region = createRegion({ rows: 3, rowBytes: 4096 });
  expect(region.bytes.length).toBe(3 * 4096);
  expect(region.mappedBytes).toBe(3 * 4096);
  expect(region.bytes.every((byte) => byte === 0)).toBe(true);
  const file = openSync(`/proc/self/fd/${region.fd}`, "r+");
  writeSync(file, Buffer.from("hello"), 0, 5, 4096);
  expect(Buffer.from(region.bytes.subarray(4096, 4101)).toString()).toBe("hello");
  region.bytes[0] = 0x41;
  const back = Buffer.alloc(1);
  readSync(file, back, 0, 1, 0);
  expect(back[0]).toBe(0x41);
  const other = mapRegionFd(file, { rows: 2, rowBytes: 4096, offset: 4096 });
  expect(other.fd).toBe(-1);
  expect(other.bytes[0]).toBe("h".charCodeAt(0));
  region.close();
  region.close();
  expect([region.bytes.length, region.mappedBytes, region.fd]).toEqual([0, 0, -1]);
  expect(other.bytes[0]).toBe("h".charCodeAt(0));
  other.close();
});

test("a closed region's memory is out of JavaScript's reach", () => {
  const region = createRegion({ rows: 1, rowBytes: 4096 });
  const view = region.bytes.subarray(10, 20);
  const { buffer } = region.bytes;
  region.close();
  expect(view.length).toBe(0);
  expect(buffer.byteLength).toBe(0);
  expect(view[0]).toBeUndefined();
});

test("what does not fit is refused by name", () => {
  const path = join(scratch(), "region");
  writeFileSync(path, Buffer.alloc(8192));
  expect(codeOf(() => mapRegionPath(path, { rows: 3, rowBytes: 4096 }))).toBe("INVALID_ARGUMENT");
  expect(codeOf(() => mapRegionPath(path, { rows: 1, rowBytes: 4096, offset: 1 }))).toBe("INVALID_ARGUMENT");
  expect(codeOf(() => createRegion({ rows: 1.5, rowBytes: 4096 }))).toBe("INVALID_ARGUMENT");
  expect(codeOf(() => createRegion({ rows: 0, rowBytes: 4096 }))).toBe("INVALID_ARGUMENT");
  expect(() => mapRegionPath("/nothing/there", { rows: 1, rowBytes: 1 })).toThrow(/ENOENT/);
  const file = openSync(path, "r+");
  expect(codeOf(() => mapRegionFd(file, { rows: 9, rowBytes: 4096 }))).toBe("INVALID_ARGUMENT");
  // It belonged to the region, so it is closed.
  expect(() => closeSync(file)).toThrow(/EBADF/);
  expect(codeOf(() => closeFd(file))).toBe("INVALID_ARGUMENT");
});

test("a region larger than 4 GiB can be mapped", () => {
  const rows = 5 * 1024;
  const region = createRegion({ rows, rowBytes: 1 << 20 });
  expect(region.mappedBytes).toBe(rows * (1 << 20));
  expect(region.bytes.length % (1 << 20)).toBe(0);
  expect(region.bytes.length).toBeGreaterThan(3 * 2 ** 30);
  region.close();
  expect(region.bytes.length).toBe(0);
});

test("checksums are CRC-32C and can be continued", () => {
  const bytes = Buffer.from("123456789");
  expect(crc32c(bytes)).toBe(0xe3069283);
  expect(crc32c(bytes.subarray(4), crc32c(bytes.subarray(0, 4)))).toBe(0xe3069283);
  expect(crc32c(new Uint8Array(0))).toBe(0);
  expect(["sse4.2", "armv8-crc", "portable"]).toContain(checksumImplementation());
});

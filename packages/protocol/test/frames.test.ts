import { KvferryError } from "@kvferry/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { encodeFrame, FRAME_BYTES_MAX, FRAME_BYTES_MAX_BEFORE_HELLO, FrameDecoder } from "../src/index.js";

function framesOf(decoder: FrameDecoder): Uint8Array[] {
  const frames: Uint8Array[] = [];
  for (let body = decoder.next(); body !== undefined; body = decoder.next()) frames.push(body);
  return frames;
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}

const body = fc.uint8Array({ minLength: 1, maxLength: 300 });

describe("frames", () => {
  it("come out as they went in, wherever the stream is cut", () => {
    fc.assert(
      fc.property(fc.array(body, { maxLength: 20 }), fc.array(fc.nat(2000), { maxLength: 40 }), (bodies, cuts) => {
        const stream = concat(bodies.map(encodeFrame));
        const points = [...cuts.map((cut) => Math.min(cut, stream.length)), 0, stream.length].sort((a, b) => a - b);
        const decoder = new FrameDecoder();
        const got: Uint8Array[] = [];
        for (let i = 1; i < points.length; i++) {
          decoder.push(stream.slice(points[i - 1], points[i]));
          got.push(...framesOf(decoder));
        }
        expect(got.map((each) => [...each])).toEqual(bodies.map((each) => [...each]));
        expect(decoder.bufferedBytes).toBe(0);
      }),
    );
  });

  it("stay as they were when more is pushed: a request's keys are views of them", () => {
    fc.assert(
      fc.property(fc.array(body, { minLength: 2, maxLength: 20 }), fc.integer({ min: 1, max: 64 }), (bodies, step) => {
        const stream = concat(bodies.map(encodeFrame));
        const decoder = new FrameDecoder();
        const got: Uint8Array[] = [];
        for (let at = 0; at < stream.length; at += step) {
          decoder.push(stream.slice(at, at + step));
          got.push(...framesOf(decoder));
        }
        expect(got.map((each) => [...each])).toEqual(bodies.map((each) => [...each]));
      }),
    );
  });

  it("come out byte by byte", () => {
    const decoder = new FrameDecoder();
    const sent = Uint8Array.from({ length: 1000 }, (_, i) => i & 0xff);
    const stream = encodeFrame(sent);
    for (const byte of stream.subarray(0, -1)) {
      decoder.push(Uint8Array.of(byte));
      expect(decoder.next()).toBeUndefined();
    }
    decoder.push(stream.slice(-1));
    expect(decoder.next()).toEqual(sent);
  });

  it.each([0, FRAME_BYTES_MAX_BEFORE_HELLO + 1, 0xffff_ffff])(
    "refuse a length of %i as soon as the header is there",
    (length) => {
      const header = new Uint8Array(4);
      new DataView(header.buffer).setUint32(0, length, true);
      const decoder = new FrameDecoder();
      decoder.push(header);
      expect(() => decoder.next()).toThrow(expect.objectContaining({ code: "PROTOCOL" }));
    },
  );

  it("do not make the decoder allocate what a header only claims", () => {
    const decoders = Array.from({ length: 1000 }, () => new FrameDecoder(FRAME_BYTES_MAX));
    const before = process.memoryUsage().arrayBuffers;
    for (const decoder of decoders) {
      decoder.push(Uint8Array.of(0, 0, 0, 1)); // 16 MiB
      decoder.push(new Uint8Array(100));
      expect(decoder.next()).toBeUndefined();
    }
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(16 * 2 ** 20);
  });

  it("cost memory in proportion to the bytes that came, however small the pieces", () => {
    const decoder = new FrameDecoder(FRAME_BYTES_MAX);
    decoder.push(Uint8Array.of(0, 0, 0, 1));
    const piece = new Uint8Array(16);
    const before = process.memoryUsage();
    for (let i = 0; i < 2 ** 16; i++) decoder.push(piece);
    const after = process.memoryUsage();
    expect(decoder.bufferedBytes).toBe(2 ** 20 + 4);
    expect(after.heapUsed + after.arrayBuffers - before.heapUsed - before.arrayBuffers).toBeLessThan(32 * 2 ** 20);
  });

  it("are never longer than the protocol allows", () => {
    expect(() => encodeFrame(new Uint8Array(0))).toThrow(KvferryError);
    expect(() => encodeFrame(new Uint8Array(FRAME_BYTES_MAX + 1))).toThrow(KvferryError);
    expect(encodeFrame(new Uint8Array(FRAME_BYTES_MAX))).toHaveLength(FRAME_BYTES_MAX + 4);
  });
});

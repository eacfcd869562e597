import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  crc32c,
  encodeFooter,
  judgeBlock,
  Outcome,
  paddedBytes,
  storedBlockBytes,
  tailBytes,
  verifyBlock,
} from "../src/index.js";

// What a block is that lies together, is in block-format.test.ts.

const block = fc.record({
  payload: fc.uint8Array({ minLength: 1, maxLength: 5000, size: "max" }),
  key: fc.uint8Array({ minLength: 5, maxLength: 128 }),
  namespaceDigest: fc.uint8Array({ minLength: 32, maxLength: 32 }),
});

describe("a block whose payload lies elsewhere", { timeout: 30_000 }, () => {
  it("is judged as if it lay together, whatever bit is wrong", () => {
    fc.assert(
      fc.property(block, fc.nat(), fc.boolean(), ({ payload, key, namespaceDigest }, at, damaged) => {
        const blockBytes = payload.length;
        const stored = new Uint8Array(storedBlockBytes(blockBytes));
        stored.set(payload);
        const payloadChecksum = crc32c(payload);
        const fields = { payloadBytes: blockBytes, payloadChecksum, storedAtMs: 1, key, namespaceDigest, writer: "w" };
        encodeFooter(stored.subarray(paddedBytes(blockBytes)), fields);
        const offset = at % stored.length;
        if (damaged) stored[offset] = (stored[offset] as number) ^ 1;
        const expected = { blockBytes, key, namespaceDigest };
        const tail = stored.subarray(blockBytes);
        expect(tail.length).toBe(tailBytes(blockBytes));
        const verdict = judgeBlock(tail, crc32c(stored.subarray(0, blockBytes)), expected);
        expect(verdict).toEqual(verifyBlock(stored, expected));
        expect(verdict.outcome).toBe(damaged ? Outcome.CORRUPT : Outcome.LOADED);
        // a tail that is whole says nothing for a payload that is not
        expect(judgeBlock(tail, payloadChecksum ^ 1, expected).outcome).toBe(Outcome.CORRUPT);
      }),
    );
  });
});

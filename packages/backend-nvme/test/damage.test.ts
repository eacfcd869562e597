import { readFile, writeFile } from "node:fs/promises";
import { LookupState, Outcome } from "@kvferry/core";
import fc from "fast-check";
import { afterEach, describe, expect, it } from "vitest";
import type { NvmeBackend } from "../src/index.js";
import { batchOf, count, keysFrom, load } from "./blocks.js";
import { Disk, flipByte, patch } from "./disk.js";
import { HEADER_BYTES, TestDrive } from "./drives.js";

const BLOCK_BYTES = 6000;
const BLOCKS = 64;
const SEGMENT_BYTES = 128 * 1024;
const SEGMENTS = 8;
const DRIVE_BYTES = HEADER_BYTES + SEGMENTS * SEGMENT_BYTES;
/** Restarts over a damaged drive, each with so many places damaged. */
const RESTARTS = process.env.KVFERRY_LONG ? 1000 : 140;
const PLACES = 8;
const ends: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

async function filled(): Promise<TestDrive> {
  const test = await TestDrive.open({ capacityBytes: DRIVE_BYTES, segmentBytes: SEGMENT_BYTES });
  ends.push(() => test.remove());
  const backend = await test.backend(BLOCK_BYTES);
  for (let at = 0; at < BLOCKS; at += 4) await backend.store(batchOf(keysFrom(at, 4), BLOCK_BYTES));
  await backend.remove(keysFrom(1, 1));
  await backend.store(batchOf(keysFrom(BLOCKS, 1), BLOCK_BYTES));
  return test;
}

/** A place where something can be: the superblocks, or a segment. */
const place = fc.oneof(
  { weight: 1, arbitrary: fc.nat(8191) },
  { weight: 12, arbitrary: fc.integer({ min: HEADER_BYTES, max: DRIVE_BYTES - 1 }) },
  {
    weight: 4, // headers and the ends of segments, where summaries are
    arbitrary: fc
      .tuple(fc.nat(SEGMENTS - 1), fc.nat(4095), fc.boolean())
      .map(([segment, at, end]) => HEADER_BYTES + segment * SEGMENT_BYTES + (end ? SEGMENT_BYTES - 4096 + at : at)),
  },
);

type Damage = { readonly kind: "flip" | "torn" | "stale" | "swapped"; readonly at: number; readonly other: number };
const damages: fc.Arbitrary<Damage> = fc.record({
  kind: fc.constantFrom("flip" as const, "flip" as const, "torn" as const, "stale" as const, "swapped" as const),
  at: place,
  other: place,
});

/** flip: a bit; torn: zeros from here to the end of the page and some pages more; stale, swapped: pages at each other's place. */
function apply(bytes: Buffer, { kind, at, other }: Damage): void {
  const page = Math.floor(at / 4096) * 4096;
  const otherPage = Math.floor(other / 4096) * 4096;
  if (kind === "flip") bytes[at] = (bytes[at] as number) ^ (1 << (other % 8));
  else if (kind === "torn") bytes.fill(0, at, Math.min(bytes.length, page + 4096 * (1 + (other % 4))));
  else {
    const kept = Buffer.from(bytes.subarray(page, page + 4096));
    bytes.copy(bytes, page, otherPage, otherPage + 4096);
    if (kind === "swapped") kept.copy(bytes, otherPage);
  }
}

describe("a damaged drive", () => {
  it(`gives right bytes or none, ${RESTARTS * PLACES} places damaged between restarts`, {
    timeout: 600_000,
  }, async () => {
    const test = await filled();
    await test.close();
    const whole = await readFile(test.file);
    let loaded = 0;
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(damages, { minLength: PLACES, maxLength: PLACES }), async (list) => {
        const bytes = Buffer.from(whole);
        for (const damage of list) apply(bytes, damage);
        await writeFile(test.file, bytes);
        try {
          await test.reopen();
        } catch (thrown) {
          expect((thrown as { code: string }).code).toBe("CONFIG_INVALID"); // both superblocks: it is no drive any more
          refused++;
          return;
        }
        const backend = await test.backend(BLOCK_BYTES);
        loaded += count(await load(backend, keysFrom(0, BLOCKS + 1)), Outcome.LOADED);
        await load(backend, keysFrom(0, BLOCKS + 1)); // what was damaged is dropped by now
        expect(count(await load(backend, keysFrom(0, BLOCKS + 1)), Outcome.CORRUPT)).toBe(0);
        const { blocks } = await backend.usage();
        expect(count(await backend.lookup(keysFrom(0, BLOCKS + 1)), LookupState.HIT)).toBe(blocks);
        for (let at = 100; at < 160; at += 20) {
          const { outcomes } = await backend.store(batchOf(keysFrom(at, 8), BLOCK_BYTES));
          expect(count(outcomes, Outcome.STORED)).toBe(8);
        }
        await test.close();
      }),
      { numRuns: RESTARTS, endOnFailure: true },
    );
    expect(loaded / RESTARTS).toBeGreaterThan(BLOCKS / 2); // a damaged place costs what lies there, not the drive
    expect(refused).toBeLessThan(RESTARTS / 4);
    test.warnings.length = 0;
  });

  it("gives right bytes or none, 1,000 bits flipped while it is open", { timeout: 120_000 }, async () => {
    const test = await filled();
    const backend = await test.backend(BLOCK_BYTES);
    let corrupt = 0;
    backend.onRemoved((keys, reason) => {
      if (reason === "corrupt") corrupt += keys.count;
    });
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: HEADER_BYTES, max: DRIVE_BYTES - 1 }), async (at) => {
        await flipByte(test.file, at);
        const keys = keysFrom(0, BLOCKS + 1);
        const outcomes = await load(backend, keys);
        for (let i = 0; i < keys.count; i++) {
          if (outcomes[i] !== Outcome.CORRUPT) continue;
          expect((await backend.lookup(keysFrom(i, 1)))[0]).toBe(LookupState.MISS);
          const again = await backend.store(batchOf(keysFrom(i, 1), BLOCK_BYTES));
          expect([...again.outcomes]).toEqual([Outcome.STORED]);
        }
      }),
      { numRuns: 1000, endOnFailure: true },
    );
    expect(corrupt).toBeGreaterThan(30); // most places hold none
    expect(test.drive.counters().blocksCorrupt).toBe(corrupt);
    test.warnings.length = 0;
  });

  it("loses only what a damaged summary speaks of, or nothing where its records can be walked", async () => {
    const test = await filled();
    await test.close();
    const disk = await Disk.read(test.file);
    for (let segment = 0; segment < SEGMENTS; segment++) {
      await patch(test.file, disk.startOf(segment) + SEGMENT_BYTES - 4096, (page) => page.fill(0x5a), 4096);
    }
    await test.reopen();
    const backend = await test.backend(BLOCK_BYTES);
    expect(count(await load(backend, keysFrom(0, BLOCKS + 1)), Outcome.LOADED)).toBe(BLOCKS);
    test.warnings.length = 0;
  });

  it("does not find a damaged block again after a restart", async () => {
    const test = await filled();
    let backend: NvmeBackend = await test.backend(BLOCK_BYTES);
    const { payload } = (await Disk.read(test.file)).find(
      backend.context.namespace.digestHex,
      Buffer.from(keysFrom(5, 1).bytes).toString("hex"),
    );
    await flipByte(test.file, payload + 100);
    expect([...(await load(backend, keysFrom(5, 1)))]).toEqual([Outcome.CORRUPT]);
    await test.reopen();
    backend = await test.backend(BLOCK_BYTES);
    expect([...(await backend.lookup(keysFrom(5, 1)))]).toEqual([LookupState.MISS]);
    expect((await backend.usage()).blocks).toBe(BLOCKS - 1);
    expect(test.warnings).toHaveLength(1);
    test.warnings.length = 0;
  });
});

import { LookupState, Outcome, outcomeCode } from "@kvferry/core";
import { afterEach, describe, expect, it } from "vitest";
import { resolveDriveConfig } from "../src/config.js";
import { NvmeDrive } from "../src/drive.js";
import { NvmeBackend, type NvmeBackendOptions } from "../src/index.js";
import { batchOf, count, keysFrom, load, namespaceOf } from "./blocks.js";
import { KEY_BYTES } from "./crash-blocks.mjs";
import { DriveDouble } from "./drive-double.js";

// What a drive does that no file can be made to do.

const SEGMENT_BYTES = 256 * 1024;
const SEGMENTS = 6;
const BLOCK_BYTES = 8192;
const ends: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

async function setup(
  options: NvmeBackendOptions = {},
): Promise<{ double: DriveDouble; drive: NvmeDrive; backend: NvmeBackend }> {
  const double = new DriveDouble(SEGMENT_BYTES, SEGMENTS);
  const capacityBytes = 2 ** 20 + SEGMENT_BYTES * SEGMENTS;
  const drive = new NvmeDrive(
    resolveDriveConfig({ path: "/double", capacityBytes, segmentBytes: SEGMENT_BYTES }),
    double,
  );
  await drive.recover();
  const backend = new NvmeBackend({ drive, ...options });
  await backend.open({ namespace: namespaceOf(), keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES });
  ends.push(
    () => drive.close(),
    () => backend.close(),
  );
  return { double, drive, backend };
}

describe("a drive that fails", () => {
  it("fails the stores of that moment only, and their keys can be stored again", async () => {
    const { double, backend } = await setup();
    await backend.store(batchOf(keysFrom(1, 4), BLOCK_BYTES));
    double.failAppends = 1;
    const failed = await backend.store(batchOf(keysFrom(11, 4), BLOCK_BYTES));
    expect([...failed.outcomes]).toEqual(Array(4).fill(Outcome.FAILED));
    expect(outcomeCode(failed, 0)).toBe("IO");
    expect([...(await backend.lookup(keysFrom(11, 4)))]).toEqual(Array(4).fill(LookupState.MISS));
    expect((await backend.usage()).blocks).toBe(4);
    expect(count((await backend.store(batchOf(keysFrom(11, 4), BLOCK_BYTES))).outcomes, Outcome.STORED)).toBe(4);
    expect(count(await load(backend, keysFrom(11, 4)), Outcome.LOADED)).toBe(4);
  });

  it("lets the second of two stores of a key try when the first has failed", async () => {
    const { double, backend } = await setup();
    await backend.store(batchOf(keysFrom(100, 1), BLOCK_BYTES)); // the first segment is open
    double.failAppends = 1;
    const [first, second] = await Promise.all([1, 2].map(() => backend.store(batchOf(keysFrom(1, 2), BLOCK_BYTES))));
    expect([...(first?.outcomes ?? [])]).toEqual([Outcome.FAILED, Outcome.FAILED]);
    expect([...(second?.outcomes ?? [])]).toEqual([Outcome.STORED, Outcome.STORED]);
    expect(count(await load(backend, keysFrom(1, 2)), Outcome.LOADED)).toBe(2);
  });

  it("says so to stores when it takes no new segment, and works again when it does", async () => {
    const { double, backend } = await setup();
    double.beginFails = "NO_SPACE";
    const failed = await backend.store(batchOf(keysFrom(1, 4), BLOCK_BYTES));
    expect(outcomeCode(failed, 3)).toBe("NO_SPACE");
    double.beginFails = undefined;
    expect(count((await backend.store(batchOf(keysFrom(1, 4), BLOCK_BYTES))).outcomes, Outcome.STORED)).toBe(4);
  });

  it("goes on when it does not take room back", async () => {
    const { double, drive, backend } = await setup();
    double.discardFails = true;
    for (let first = 0; first < 400; first += 20) {
      const { outcomes } = await backend.store(batchOf(keysFrom(first, 20), BLOCK_BYTES));
      expect(count(outcomes, Outcome.STORED)).toBe(20);
    }
    expect(drive.counters().segmentsEvicted).toBeGreaterThan(3);
    expect(drive.counters().segmentsDiscarded).toBe(0);
  });
});

describe("a load that hangs in the drive", () => {
  it("keeps its segment from being given up, and stores that wait for the room end by their signal", async () => {
    const { double, drive, backend } = await setup();
    const first = keysFrom(0, 20);
    await backend.store(batchOf(first, BLOCK_BYTES));
    let goOn = (): void => {};
    double.readsHang = new Promise((resolve) => {
      goOn = resolve;
    });
    const loading = load(backend, first);
    const stuck: Promise<Uint8Array>[] = [];
    for (let at = 100; at < 400; at += 20) {
      const store = backend.store(batchOf(keysFrom(at, 20), BLOCK_BYTES), { deadlineMs: 300 });
      stuck.push(store.then(({ outcomes }) => outcomes));
    }
    const outcomes = await Promise.all(stuck);
    const stored = outcomes.reduce((sum, each) => sum + count(each, Outcome.STORED), 0);
    expect(stored).toBeGreaterThan(0);
    expect(stored).toBeLessThan(300);
    goOn();
    double.readsHang = undefined;
    expect(count(await loading, Outcome.LOADED)).toBe(20);
    expect(count((await backend.store(batchOf(keysFrom(1000, 20), BLOCK_BYTES))).outcomes, Outcome.STORED)).toBe(20);
    expect(drive.counters().segmentsEvicted).toBeGreaterThan(0);
  });
});

describe("what is written", () => {
  it("is counted to the byte", async () => {
    const { double, drive, backend } = await setup();
    for (let first = 0; first < 600; first += 30) {
      await backend.store(batchOf(keysFrom(first, 30), BLOCK_BYTES));
      await load(backend, keysFrom(first, 10));
      await backend.remove(keysFrom(first + 20, 3));
    }
    await backend.close();
    await drive.close();
    const { bytesWrittenByStores, bytesWrittenByReinsertion, bytesWrittenAsMetadata, ...counters } = drive.counters();
    expect(bytesWrittenByReinsertion).toBeGreaterThan(0);
    const sum = bytesWrittenByStores + bytesWrittenByReinsertion + bytesWrittenAsMetadata;
    expect(sum).toBe(double.counters().bytesWritten);
    expect(counters.bytesWrittenLast24Hours).toBe(sum);
    expect(counters.writeAmplification).toBeCloseTo(sum / bytesWrittenByStores);
  });
});

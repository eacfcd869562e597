import { type KeyBatch, keyAt, LookupState, Outcome, outcomeCode } from "@kvferry/core";
import { afterEach, describe, expect, it } from "vitest";
import { TOMBSTONES } from "../src/meta-records.js";
import { batchOf, count, keysFrom, load, namespaceOf } from "./blocks.js";
import { numberOf } from "./crash-blocks.mjs";
import { type DoubleDrive, openDouble } from "./double-drives.js";

// What a drive does that no file can be made to do.

const BLOCK_BYTES = 8192;
const ends: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

async function setup(): Promise<DoubleDrive> {
  const opened = await openDouble();
  ends.push(() => opened.close());
  return opened;
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

describe("copying what is worth keeping", () => {
  /** Fills the drive so that the segment of `used` is given up; `act` runs while it is being read for the copy. */
  async function giveUp({ double, backend }: DoubleDrive, used: KeyBatch, act: () => Promise<unknown>): Promise<void> {
    await load(backend, used);
    let reached = (): void => {};
    const reading = new Promise<void>((resolve) => {
      reached = resolve;
    });
    let goOn = (): void => {};
    const held = new Promise<void>((resolve) => {
      goOn = resolve;
    });
    double.onRead = () => {
      reached();
      return held;
    };
    const filling = (async () => {
      for (let at = 1000; at < 1200; at += 10) await backend.store(batchOf(keysFrom(at, 10), BLOCK_BYTES));
    })();
    await reading;
    double.onRead = undefined;
    await act();
    goOn();
    await filling;
  }

  it("does not bring back what is removed meanwhile, now or after a restart", async () => {
    const test = await setup();
    const used = keysFrom(0, 4);
    await test.backend.store(batchOf(used, BLOCK_BYTES));
    await giveUp(test, used, () => test.backend.remove(keysFrom(2, 1)));
    expect([...(await test.backend.lookup(used))]).toEqual([1, 1, 0, 1]);
    expect(test.drive.counters().blocksReinserted).toBeGreaterThanOrEqual(3);
    const copy = test.double.recordsOf(namespaceOf().digest, keyAt(keysFrom(2, 1), 0)).at(-1);
    const tombstone = test.double.recordsOf(TOMBSTONES.namespaceDigest, undefined).at(-1);
    expect(copy?.sequence).toBeLessThan(tombstone?.sequence as number);
  });

  it("does not mistake another block for one that is removed meanwhile", async () => {
    const test = await setup();
    const used = keysFrom(0, 4);
    await test.backend.store(batchOf(used, BLOCK_BYTES));
    await giveUp(test, used, async () => {
      await test.backend.remove(used);
      await test.backend.store(batchOf(keysFrom(5000, 4), BLOCK_BYTES)); // or another takes their rows
    });
    expect(count(await load(test.backend, keysFrom(5000, 4)), Outcome.LOADED)).toBe(4);
    expect(count(await load(test.backend, keysFrom(1000, 200)), Outcome.CORRUPT)).toBe(0);
  });

  it("counts them as evicted where the copy fails, and serves nothing from where they were", async () => {
    const test = await setup();
    const used = keysFrom(0, 4);
    await test.backend.store(batchOf(used, BLOCK_BYTES));
    const evicted = new Set<number>();
    test.backend.onRemoved((keys) => {
      for (let i = 0; i < keys.count; i++) evicted.add(numberOf(keyAt(keys, i)));
    });
    const before = test.drive.counters().blocksReinserted;
    test.double.failCopiesOf(keyAt(used, 0));
    await giveUp(test, used, async () => {});
    expect(test.drive.counters().blocksReinserted).toBe(before);
    expect([...(await test.backend.lookup(used))]).toEqual([0, 0, 0, 0]);
    for (let i = 0; i < 4; i++) expect(evicted.has(i)).toBe(true);
    expect(count(await load(test.backend, used), Outcome.MISS)).toBe(4);
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

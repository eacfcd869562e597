import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  BlockLedger,
  type BlockUse,
  type KeyBatch,
  keyAt,
  keyHex,
  NO_ROW,
  POLICIES,
  type PolicyFactory,
  packKeys,
} from "../../src/index.js";

const clock = { ms: 1_000_000, nowMs: () => clock.ms, monotonicMs: () => clock.ms };
const keyOf = (id: number): Uint8Array => Uint8Array.of(id, id >> 8, 7, 7, 0, 0, 0, 0);
const keysOf = (ids: readonly number[]): KeyBatch => packKeys(ids.map(keyOf), 8);

function ledgerOf(policy: PolicyFactory = POLICIES.lru): BlockLedger {
  return new BlockLedger({ keyBytes: 8, capacityBlocks: 16, policy, clock });
}

function insert(ledger: BlockLedger, ids: readonly number[]): number[] {
  const fresh = new Uint8Array(ids.length);
  ledger.insert(keysOf(ids), new Uint8Array(ids.length).fill(1), 100, new Int32Array(ids.length), fresh);
  return [...fresh];
}

function takeVictims(ledger: BlockLedger, count: number): string[] {
  const taken: string[] = [];
  for (let i = 0; i < count; i++) {
    const row = ledger.victim();
    if (row === NO_ROW) break;
    taken.push(keyHex(ledger.index.key(row)));
    ledger.drop(row);
  }
  return taken;
}

const hexes = (ids: readonly number[]): string[] => ids.map((id) => keyHex(keyOf(id)));

describe("a ledger", () => {
  it("lets chains go from their end, the ones that were looked up last at last", () => {
    const ledger = ledgerOf();
    insert(ledger, [1, 2, 3]);
    clock.ms += 1000;
    insert(ledger, [11, 12]);
    clock.ms += 1000;
    ledger.noteLookup(keysOf([1, 2, 3, 4]));
    ledger.countUses();
    expect(takeVictims(ledger, 5)).toEqual(hexes([12, 11, 3, 2, 1]));
  });

  it("tells the policy where in which request a block stands, as the lookup before told", () => {
    const uses: BlockUse[] = [];
    const spy: PolicyFactory = (options) => {
      const lru = POLICIES.lru(options);
      const inserted = lru.inserted.bind(lru);
      lru.inserted = (row, use) => {
        uses.push({ ...use });
        inserted(row, use);
      };
      return lru;
    };
    const ledger = ledgerOf(spy);
    insert(ledger, [1, 2]);
    ledger.noteLookup(keysOf([1, 2, 3, 4, 5]));
    ledger.countUses();
    uses.length = 0;
    insert(ledger, [3, 4]);
    expect(uses).toEqual([3, 2].map((position) => ({ nowMs: clock.ms, position, requestBlocks: 5, foundBlocks: 2 })));
  });

  it("says which blocks are new: the first of equal keys", () => {
    const ledger = ledgerOf();
    expect(insert(ledger, [1, 2, 1])).toEqual([1, 1, 0]);
    expect(insert(ledger, [2, 3])).toEqual([0, 1]);
    expect(ledger.blocks).toBe(3);
  });

  it("never offers a block that is being read, and offers it again afterwards", () => {
    const ids = fc.uniqueArray(fc.integer({ min: 0, max: 30 }), { minLength: 1, maxLength: 16 });
    const property = fc.property(
      ids,
      fc.array(ids, { maxLength: 4 }),
      fc.constantFrom(...Object.values(POLICIES)),
      (all, reads, policy) => {
        const ledger = ledgerOf(policy);
        insert(ledger, all);
        const pinned = reads.map((read) => {
          const rows = new Int32Array(read.length);
          ledger.index.findMany(keysOf(read), rows);
          ledger.pin(rows);
          return rows;
        });
        const read = new Set(reads.flat());
        const lastRead = all.findLastIndex((id) => read.has(id));
        // of one chain, what comes before a block that is read stays with it
        expect(takeVictims(ledger, all.length)).toEqual(hexes(all.slice(lastRead + 1).reverse()));
        for (const rows of pinned) ledger.unpin(rows);
        expect(takeVictims(ledger, all.length)).toEqual(hexes(all.slice(0, lastRead + 1).reverse()));
      },
    );
    fc.assert(property, { seed: 3, numRuns: 100 });
  });

  it("counts a load as a use only if no lookup did", () => {
    const ledger = ledgerOf();
    insert(ledger, [1]);
    const rows = Int32Array.of(ledger.index.find(keyAt(keysOf([1]), 0)));
    clock.ms += 1000;
    ledger.noteLoad(keysOf([1]), rows);
    expect(ledger.index.uses(rows[0] as number)).toBe(0);
    clock.ms += 60_000;
    ledger.noteLoad(keysOf([1]), rows);
    expect(ledger.index.uses(rows[0] as number)).toBe(1);
  });
});

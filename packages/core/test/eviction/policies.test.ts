import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type BlockTable, DEFAULT_POLICY, NO_ROW, POLICIES, policyNamed } from "../../src/index.js";
import { Tier } from "./replay.js";

/** Blocks are the nodes of a binary tree, so that chains share their beginnings; a request is the way from the root to one of them. */
function chainTo(node: number): number[] {
  const chain: number[] = [];
  for (let at = node; at > 0; at >>= 1) chain.unshift(at);
  return chain;
}

const operations = fc.array(
  fc.record({
    what: fc.constantFrom("request", "request", "request", "request", "evict", "drop" as const),
    node: fc.integer({ min: 1, max: 255 }),
  }),
  { maxLength: 300, size: "max" },
);

/** For machines that are busy with other things. */
const TIMEOUT_MS = 120_000;

const use = { nowMs: 1, position: 0, requestBlocks: 1, foundBlocks: 0 };

function tableOf(children: (row: number) => number): BlockTable {
  return {
    rowLimit: 100,
    parent: (row) => (row + 1) % 100,
    children,
    lastUseMs: () => 1,
    uses: () => 0,
    hash: (row) => Math.imul(row + 1, 0x9e3779b1) >>> 0,
  };
}

describe.each(Object.keys(POLICIES))("policy %s", { timeout: TIMEOUT_MS }, (name) => {
  const make = POLICIES[policyNamed(name)];

  it("names victims that are there and without children, whatever is requested, evicted and dropped", () => {
    fc.assert(
      fc.property(operations, fc.integer({ min: 1, max: 60 }), (list, capacity) => {
        const tier = new Tier(make, capacity);
        for (const { what, node } of list) {
          if (what === "request") tier.request(chainTo(node));
          else if (what === "evict" && tier.index.size > 0) tier.remove(tier.victim());
          else if (what === "drop") {
            // as when a block is found to be corrupt: its children stay behind
            const row = tier.rowOf(node);
            if (row !== NO_ROW) tier.remove(row);
          }
        }
        // everything can be let go, each block once
        const left = tier.index.size;
        for (let i = 0; i < left; i++) tier.remove(tier.victim());
        expect(tier.index.size).toBe(0);
        expect(tier.policy.victim(0)).toBe(NO_ROW);
      }),
      { numRuns: process.env.KVFERRY_LONG === "1" ? 3000 : 80 },
    );
  });

  it("names the same victims for the same requests and seed", () => {
    const runs = [1, 2].map(() => {
      const tier = new Tier(make, 50, 7);
      for (let i = 0; i < 4000; i++) tier.request(chainTo(1 + ((i * 7919) % 1021)));
      return tier.evicted;
    });
    expect(runs[0]?.length).toBeGreaterThan(1000);
    expect(runs[1]).toEqual(runs[0]);
  });

  it("ends where every block has children, as hostile clients may have it", () => {
    const policy = make({ table: tableOf(() => 1), capacityBlocks: 10 });
    for (let row = 0; row < 100; row++) policy.inserted(row, use);
    const gone = new Set<number>();
    for (let i = 0; i < 100; i++) {
      const row = policy.victim(2);
      expect(row).toBeGreaterThanOrEqual(0);
      policy.removed(row);
      gone.add(row);
    }
    expect(gone.size).toBe(100);
    expect(policy.victim(2)).toBe(NO_ROW);
  });

  it("finds a block whose children have gone without a word", () => {
    const parents = new Set([3, 4]);
    const policy = make({ table: tableOf((row) => (parents.has(row) ? 1 : 0)), capacityBlocks: 10 });
    for (const row of [3, 4]) policy.inserted(row, use);
    parents.delete(4);
    expect(policy.victim(2)).toBe(4);
  });

  it("takes a row told twice, and one it never knew, for what they are", () => {
    const policy = make({ table: tableOf(() => 0), capacityBlocks: 10 });
    policy.removed(5);
    policy.removed(NO_ROW);
    policy.used(5, use);
    policy.inserted(5, use);
    expect(policy.victim(1)).toBe(5);
    policy.removed(5);
    policy.removed(5);
    expect(policy.victim(1)).toBe(NO_ROW);
  });

  it("takes no more memory with time", () => {
    const tier = new Tier(make, 500);
    const fill = (from: number) => {
      for (let i = 0; i < 2000; i++) tier.request([from + 3 * i, from + 3 * i + 1, from + 3 * i + 2]);
    };
    fill(0);
    const before = tier.policy.memoryBytes;
    for (let round = 1; round < 10; round++) fill(round * 6000);
    expect(tier.policy.memoryBytes).toBe(before);
  });

  it("ranks what is used over and over above what came once, when it names what to keep", () => {
    const tier = new Tier(make, 200);
    for (let i = 0; i < 3000; i++) tier.request(i % 2 === 0 ? [1] : [1000 + i]);
    const once = tier.victim();
    expect(tier.policy.worth(tier.rowOf(1), 3001)).toBeGreaterThanOrEqual(tier.policy.worth(once, 3001));
  });
});

describe("the name of a policy in a configuration", () => {
  it("is checked with the field and the choices in the message", () => {
    expect(policyNamed("s3-fifo")).toBe("s3-fifo");
    expect(policyNamed(DEFAULT_POLICY)).toBe(DEFAULT_POLICY);
    expect(() => policyNamed("toString", "tiers[0].policy")).toThrow(
      expect.objectContaining({ code: "CONFIG_INVALID", message: expect.stringMatching(/tiers\[0\]\.policy.*lru/) }),
    );
  });
});

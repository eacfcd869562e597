import fc from "fast-check";
import { expect, it } from "vitest";
import { POLICIES } from "../../src/index.js";
import { Tier } from "./replay.js";

/** What LRU is: a list, the least recently used first. */
function naiveVictims(requests: readonly number[][], capacity: number): number[] {
  let list: number[] = [];
  const victims: number[] = [];
  for (const request of requests) {
    list = [...list.filter((block) => !request.includes(block)), ...[...request].reverse()];
    while (list.length > capacity) victims.push(list.shift() as number);
  }
  return victims;
}

it("LRU lets go of what a list of blocks by use says", () => {
  const chain = fc.tuple(fc.nat(20), fc.integer({ min: 1, max: 8 }));
  fc.assert(
    fc.property(
      fc.array(chain, { maxLength: 200, size: "max" }),
      fc.integer({ min: 8, max: 60 }),
      (chains, capacity) => {
        const requests = chains.map(([document, length]) => Array.from({ length }, (_, i) => document * 100 + i));
        const tier = new Tier(POLICIES.lru, capacity);
        for (const request of requests) tier.request(request);
        expect(tier.evicted).toEqual(naiveVictims(requests, capacity));
      },
    ),
  );
});

import { describe, expect, it } from "vitest";
import { POLICIES, type PolicyName } from "../../src/index.js";
import { generator, Tier } from "./replay.js";

type Step = (random: () => number) => number[];

/** Blocks `from` … of one document. */
const blocksOf = (document: number, count: number): number[] =>
  Array.from({ length: count }, (_, i) => document * 1000 + i);

/** Drawn often if small, seldom if great. */
const skewed = (random: () => number, count: number): number => Math.floor(count * random() ** 3);

/** Workloads of different character, each a new one for each run. */
const WORKLOADS: Record<string, () => Step> = {
  "prompts shared by many, with tails of their own": () => {
    let tails = 1000;
    return (random) => [...blocksOf(skewed(random, 150), 12), ...blocksOf(tails++, 6)];
  },
  "documents read once among documents read often": () => {
    let once = 1000;
    return (random) => (random() < 0.2 ? blocksOf(once++, 40) : blocksOf(skewed(random, 400), 8));
  },
  "conversations that grow": () => {
    const lengths = new Map<number, number>();
    let names = 100;
    const users = Array.from({ length: 100 }, (_, i) => i);
    return (random) => {
      const user = skewed(random, users.length);
      if (random() < 0.1) users[user] = names++;
      const name = users[user] as number;
      const length = Math.min(200, (lengths.get(name) ?? 2) + 1 + Math.floor(random() * 6));
      lengths.set(name, length);
      return blocksOf(name, length);
    };
  },
  "what was used last is next": () => {
    const recent: number[] = [];
    let names = 0;
    return (random) => {
      const back = Math.floor(-60 * Math.log(1 - random()));
      const [document] =
        random() < 0.3 || back >= recent.length ? [names++] : recent.splice(recent.length - 1 - back, 1);
      recent.push(document as number);
      return blocksOf(document as number, 5);
    };
  },
  "all documents change half way": () => {
    let steps = 0;
    return (random) => blocksOf(skewed(random, 600) + (steps++ > 2000 ? 1000 : 0), 6);
  },
};

const REQUESTS = 4000;
/** For machines that are busy with other things. */
const TIMEOUT_MS = 120_000;

function hitRatio(policy: PolicyName, step: Step, capacity: number, requests: number = REQUESTS): number {
  const tier = new Tier(POLICIES[policy], capacity);
  const random = generator(5);
  for (let i = 0; i < requests; i++) tier.request(step(random));
  return tier.hitRatio;
}

describe("the hazard policy", { timeout: TIMEOUT_MS }, () => {
  it.each(Object.keys(WORKLOADS))("finds about as many blocks as LRU, or more: %s", (name) => {
    const workload = WORKLOADS[name] as () => Step;
    for (const capacity of [100, 500]) {
      const ours = hitRatio("hazard", workload(), capacity);
      expect(ours, `${capacity} blocks`).toBeGreaterThanOrEqual(hitRatio("lru", workload(), capacity) - 0.005);
    }
  });

  it("keeps shared prompts where LRU keeps tails that nobody asks for again", () => {
    const workload = WORKLOADS["prompts shared by many, with tails of their own"] as () => Step;
    expect(hitRatio("hazard", workload(), 300)).toBeGreaterThan(hitRatio("lru", workload(), 300) + 0.1);
  });

  it("keeps a part of a loop that is larger than the tier, where LRU finds nothing", () => {
    const loop = (): Step => {
      let next = 0;
      return () => blocksOf(next++ % 100, 10);
    };
    expect(hitRatio("lru", loop(), 500)).toBe(0);
    expect(hitRatio("hazard", loop(), 500, 12_000)).toBeGreaterThan(0.2);
  });

  it("lets go as LRU does until it has seen enough", () => {
    const [ours, lru] = (["hazard", "lru"] as const).map((policy) => {
      const tier = new Tier(POLICIES[policy], 1000);
      for (let i = 0; i < 180; i++) tier.request(blocksOf(i, 10));
      return tier.evicted;
    });
    expect(lru?.length).toBe(800);
    // within a bucket of age the order may differ
    const same = ours?.filter((block) => lru?.includes(block)).length ?? 0;
    expect(same / 800).toBeGreaterThan(0.95);
  });
});

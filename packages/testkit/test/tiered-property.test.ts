import { type ErrorCode, LookupState, MemoryBackend, Outcome, TieredStore, type TierOptions } from "@kvferry/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Bench } from "../src/bench.js";
import { type FaultyBackend as Faulty, FaultyBackend, type FaultyOperation } from "../src/index.js";
import { openBench, TestClock } from "./open-bench.js";
import { HighWater } from "./tiers.js";

const BLOCK_BYTES = 64;
const CAPACITIES: readonly (number | undefined)[] = [6, 12, undefined];
const RUNS = process.env.KVFERRY_LONG === undefined ? 150 : 5000;

interface Call {
  readonly kind: "store" | "load" | "lookup" | "remove";
  readonly ids: number[];
  /** Turns of the event loop. */
  readonly abortAfter?: number;
}

type Step =
  | { readonly kind: "together"; readonly calls: Call[] }
  | { readonly kind: "fault"; readonly tier: number; readonly operation: FaultyOperation; readonly code: ErrorCode }
  | { readonly kind: "delay"; readonly tier: number; readonly operation: FaultyOperation }
  | { readonly kind: "heal" };

const ids = fc.array(fc.integer({ min: 0, max: 29 }), { minLength: 1, maxLength: 8 });
const call: fc.Arbitrary<Call> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record(
      {
        kind: fc.constantFrom("store" as const, "store" as const, "load" as const, "load" as const, "lookup" as const),
        ids,
        abortAfter: fc.integer({ min: 0, max: 3 }),
      },
      { requiredKeys: ["kind", "ids"] },
    ),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("remove" as const), ids }) },
);
const together = fc.record({
  kind: fc.constant("together" as const),
  calls: fc.array(call, { minLength: 1, maxLength: 6 }),
});
const operation = fc.constantFrom<FaultyOperation>("store", "load", "lookup", "remove");
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 10, arbitrary: together },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("fault" as const),
      tier: fc.integer({ min: 0, max: 2 }),
      operation,
      code: fc.constantFrom<ErrorCode>("IO", "UNAVAILABLE", "BUSY"),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant("delay" as const), tier: fc.integer({ min: 0, max: 2 }), operation }),
  },
  { weight: 2, arbitrary: fc.constant<Step>({ kind: "heal" }) },
);
const writes = fc.tuple(
  fc.constantFrom("through" as const, "none" as const),
  fc.constantFrom("through" as const, "back" as const, "none" as const),
  fc.constantFrom("through" as const, "back" as const),
);

/** Three tiny tiers that can be made to fail, under a store that does not know. */
class Rig {
  readonly clock: TestClock = new TestClock();
  readonly tiers: readonly Faulty[];
  readonly highWaters: readonly HighWater[];
  readonly store: TieredStore;
  /** Outcomes of stores that must hold: only where the last tier is written through, takes everything and never fails. */
  readonly mustBeThere: Set<number> = new Set();
  #heals: (() => void)[] = [];
  bench: Bench = undefined as never;

  constructor(write: readonly ("through" | "back" | "none")[]) {
    this.highWaters = CAPACITIES.map(() => new HighWater(new MemoryBackend()));
    this.tiers = this.highWaters.map((inner, i) => new FaultyBackend(inner, { seed: i + 1 }));
    const tiers = this.tiers.map((backend, i): TierOptions => {
      const blocks = CAPACITIES[i];
      const bound = blocks === undefined ? {} : { capacityBytes: blocks * BLOCK_BYTES, policy: "lru" };
      return { name: `tier${i}`, backend, write: write[i], pendingBytesMax: 6 * BLOCK_BYTES, ...bound };
    });
    this.store = new TieredStore({ tiers, staging: { bytesMax: 5 * BLOCK_BYTES } });
  }

  async open(): Promise<void> {
    this.bench = await openBench(this.store, { blockBytes: BLOCK_BYTES, clock: this.clock });
  }

  async run(step: Step, sound: boolean): Promise<void> {
    if (step.kind === "together") await this.#together(step.calls);
    else if (step.kind === "heal") this.heal();
    else if (!sound || step.tier !== 2) this.#harm(step);
  }

  heal(): void {
    for (const heal of this.#heals) heal();
    this.#heals = [];
    this.clock.ms += 5000;
  }

  async #together(calls: readonly Call[]): Promise<void> {
    await Promise.all(calls.map((each) => this.#call(each)));
    for (const { kind, ids } of calls) {
      if (kind === "remove") for (const id of ids) this.mustBeThere.delete(id); // who stored it now may have been first
    }
  }

  #harm(step: Exclude<Step, { kind: "together" | "heal" }>): void {
    const tier = this.tiers[step.tier] as Faulty;
    const fault =
      step.kind === "delay"
        ? tier.delay(step.operation, 0, 2)
        : tier.fail(step.operation, step.code, { probability: step.code === "UNAVAILABLE" ? 1 : 0.5 });
    this.#heals.push(() => fault.remove());
  }

  async #call(each: Call): Promise<void> {
    const controller = new AbortController();
    const options = { signal: controller.signal };
    const running = this.#start(each, options);
    if (each.abortAfter !== undefined) {
      for (let turn = 0; turn < each.abortAfter; turn++) await new Promise((resolve) => setImmediate(resolve));
      controller.abort();
    }
    await running;
  }

  async #start({ kind, ids }: Call, options: { signal: AbortSignal }): Promise<void> {
    const { bench } = this;
    switch (kind) {
      case "store": {
        const batch = bench.filled(ids);
        const result = await bench.storeBatch(batch, options);
        batch.region.bytes.fill(0xee); // the engine uses its memory for something else
        for (const [i, id] of ids.entries()) if (result.outcomes[i] === Outcome.STORED) this.mustBeThere.add(id);
        return;
      }
      case "load":
        bench.assertLoadedContents(await bench.load(ids, options), ids, "load");
        return;
      case "lookup":
        await bench.lookup(ids, options).catch((error: { code?: string }) => expect(error.code).toBe("ABORTED"));
        return;
      default:
        await bench.remove(ids);
    }
  }

  /** With nothing failing and nothing under way. */
  async check(sound: boolean): Promise<void> {
    this.heal();
    await this.store.settled();
    this.heal(); // a copy that was under way may have met a fault once more
    const { bench } = this;
    const everything = Array.from({ length: 30 }, (_, id) => id);
    for (const [i, { blocks }] of this.highWaters.entries()) {
      expect(blocks, `blocks that tier ${i} had`).toBeLessThanOrEqual(CAPACITIES[i] ?? Number.POSITIVE_INFINITY);
    }
    const inTiers = new Set<number>();
    for (const tier of this.tiers) {
      const states = await tier.lookup(bench.keys(everything));
      for (const id of everything) if (states[id] === LookupState.HIT) inTiers.add(id);
    }
    const states = await bench.lookup(everything);
    const said = everything.filter((id) => states[id] === LookupState.HIT);
    expect(said, "what lookups find is what the tiers have").toEqual(everything.filter((id) => inTiers.has(id)));
    expect(states.includes(LookupState.PENDING), "nothing is under way").toBe(false);
    if (said.length > 0) await bench.mustLoad(said);
    if (sound) for (const id of this.mustBeThere) expect(inTiers.has(id), `block ${id} was stored`).toBe(true);
  }
}

describe("a store of three tiny tiers", () => {
  it("serves right bytes only, keeps its bounds and loses nothing that a tier has, whatever fails", async () => {
    const property = fc.asyncProperty(
      writes,
      fc.boolean(),
      fc.array(step, { minLength: 1, maxLength: 25 }),
      async (write, soundLast, steps) => {
        if (!write.includes("through")) return;
        const sound = soundLast && write[2] === "through";
        const rig = new Rig(write);
        await rig.open();
        try {
          for (const each of steps) await rig.run(each, sound);
          await rig.check(sound);
        } finally {
          rig.heal();
          await rig.store.close();
        }
      },
    );
    await fc.assert(property, { numRuns: RUNS, seed: 20_261_124 });
  }, 600_000);
});

import { keyAt, LookupState, Outcome, type RemovalReason } from "@kvferry/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { NvmeBackend } from "../src/index.js";
import { batchOf, count, keysFrom, load, namespaceOf } from "./blocks.js";
import { numberOf } from "./crash-blocks.mjs";
import { TestDrive } from "./drives.js";

// Any calls in any order, at capacity: what is there is what was stored and neither removed nor announced as evicted.

const KEYS = 600;
const GROUPS_PER_CHECK = 4;
const RUNS = process.env.KVFERRY_LONG ? 200 : 6;

type Step =
  | { readonly op: "store" | "load" | "remove"; readonly space: 0 | 1; readonly first: number; readonly count: number }
  | { readonly op: "reopen" };

const calls = fc.record({
  op: fc.constantFrom(
    "store" as const,
    "store" as const,
    "store" as const,
    "load" as const,
    "load" as const,
    "remove" as const,
  ),
  space: fc.constantFrom(0 as const, 1 as const),
  first: fc.nat(KEYS - 1),
  count: fc.integer({ min: 1, max: 40 }),
});

/** What must be there, by what the backend has said. */
class Model {
  readonly present: Set<number> = new Set();
  /** Told to be removed while a call was under way: the call's own answer may be older than that. */
  readonly unsure: Set<number> = new Set();

  watch(backend: NvmeBackend): void {
    backend.onRemoved((keys, reason: RemovalReason) => {
      expect(reason).toBe("evicted");
      for (let i = 0; i < keys.count; i++) {
        const number = numberOf(keyAt(keys, i));
        this.present.delete(number);
        this.unsure.add(number);
      }
    });
  }

  /** After a restart: what was evicted while nobody listened may be missing, and nothing else may be there. */
  async reopened(backend: NvmeBackend): Promise<void> {
    const states = await backend.lookup(keysFrom(0, KEYS + 40));
    for (const [number, state] of states.entries()) {
      if (state === LookupState.MISS) this.present.delete(number);
      else expect(this.present.has(number) || this.unsure.has(number), `block ${number} is back`).toBe(true);
    }
  }

  async check(backend: NvmeBackend): Promise<void> {
    const states = await backend.lookup(keysFrom(0, KEYS + 40));
    let hits = 0;
    for (const [number, state] of states.entries()) {
      expect(state).not.toBe(LookupState.PENDING);
      if (state === LookupState.HIT) hits++;
      if (this.unsure.has(number)) {
        if (state === LookupState.HIT) this.present.add(number);
        continue;
      }
      expect(state === LookupState.HIT, `block ${number}`).toBe(this.present.has(number));
    }
    this.unsure.clear();
    expect((await backend.usage()).blocks).toBe(hits);
    let listed = 0;
    for await (const page of backend.scan()) listed += page.length;
    expect(listed).toBe(hits);
  }
}

async function run(test: TestDrive, steps: readonly Step[], together: number): Promise<void> {
  const models = [new Model(), new Model()] as const;
  let backends: NvmeBackend[] = [];
  const open = async (): Promise<void> => {
    backends = [
      await test.backend(8000, { namespace: namespaceOf({ tenant: "a" }) }),
      await test.backend(20_000, { namespace: namespaceOf({ tenant: "b" }) }),
    ];
    for (const [i, backend] of backends.entries()) {
      models[i]?.watch(backend);
      await models[i]?.reopened(backend);
    }
  };
  const call = async (step: Step): Promise<void> => {
    if (step.op === "reopen") return;
    const [backend, model] = [backends[step.space] as NvmeBackend, models[step.space]];
    const keys = keysFrom(step.first, step.count);
    const numbers = Array.from({ length: step.count }, (_, i) => step.first + i);
    if (step.op === "load") {
      await load(backend, keys);
    } else if (step.op === "store") {
      const { outcomes } = await backend.store(batchOf(keys, backend.context.blockBytes));
      expect(count(outcomes, Outcome.STORED) + count(outcomes, Outcome.PRESENT)).toBe(step.count);
      for (const number of numbers) if (!model.unsure.has(number)) model.present.add(number);
    } else {
      await backend.remove(keys);
      for (const number of numbers) {
        model.present.delete(number);
        if (together > 1) model.unsure.add(number);
      }
    }
  };
  await open();
  for (let at = 0; at < steps.length; at += together) {
    const group = steps.slice(at, at + together);
    if (group.some(({ op }) => op === "reopen")) {
      await test.reopen();
      await open();
    }
    await Promise.all(group.map(call));
    if ((at / together) % GROUPS_PER_CHECK > 0 && at + together < steps.length) continue;
    for (const [i, backend] of backends.entries()) await models[i]?.check(backend);
  }
  for (let polls = 0; test.drive.counters().segmentsFree === 0 && polls < 200; polls++) {
    await new Promise((resolve) => setTimeout(resolve, 10)); // room is being made
  }
  for (const backend of backends) {
    const outcomes = await load(backend, keysFrom(0, KEYS + 40));
    expect(count(outcomes, Outcome.LOADED)).toBe((await backend.usage()).blocks);
    expect(count(outcomes, Outcome.CORRUPT)).toBe(0);
  }
}

describe("a drive at capacity", () => {
  for (const together of [1, 6]) {
    it(`never gives wrong bytes, and has what it says that it has, ${together} calls at a time`, {
      timeout: 300_000,
    }, async () => {
      const step = fc.oneof(
        { weight: 30, arbitrary: calls },
        { weight: 1, arbitrary: fc.constant({ op: "reopen" as const }) },
      );
      await fc.assert(
        fc.asyncProperty(fc.array(step, { minLength: 60, maxLength: 120, size: "max" }), async (steps) => {
          const test = await TestDrive.open();
          try {
            await run(test, steps, together);
            expect(await test.fileBytes()).toBeLessThanOrEqual(test.config.capacityBytes);
          } finally {
            await test.remove();
          }
        }),
        { numRuns: RUNS, endOnFailure: true },
      );
    });
  }
});

import assert from "node:assert/strict";
import { LookupState, Outcome, outcomeCode } from "@kvferry/core";
import { assertOutcomes, type Bench, describeOutcome, numbers } from "../bench.js";
import type { CaseKit, ConformanceCase } from "../case.js";

const { CORRUPT, DROPPED, FAILED, LOADED, MISS, PRESENT, STORED } = Outcome;
const PAGE_BYTES = 4096;
/** Of the footer of docs/block-format.md: the first byte of each field, and some between. */
const FOOTER_OFFSETS: readonly number[] = [
  0, 7, 8, 12, 16, 24, 26, 28, 32, 40, 48, 79, 80, 115, 207, 208, 271, 272, 2048, 4091, 4092, 4095,
];
/** No multiple of a page, so that there is padding. */
const BLOCK_BYTES = 9000;

interface Parts {
  readonly payload: readonly number[];
  readonly padding: readonly number[];
  readonly footer: readonly number[];
  readonly storedBytes: number;
}

/** Offsets to flip, by what lies there. */
function partsOf(bench: Bench): Parts {
  const { blockBytes, created } = bench;
  const payload = [...new Set([0, Math.floor(blockBytes / 2), blockBytes - 1])];
  const padded = Math.ceil(blockBytes / PAGE_BYTES) * PAGE_BYTES;
  const storedBytes = created.damage?.storedBytes?.(blockBytes) ?? padded + PAGE_BYTES;
  if (storedBytes === padded + PAGE_BYTES) {
    const padding = padded === blockBytes ? [] : [blockBytes, padded - 1];
    return { payload, padding, footer: FOOTER_OFFSETS.map((offset) => padded + offset), storedBytes };
  }
  const rest = storedBytes - blockBytes; // a format of its own: whatever is not payload
  const footer = rest <= 0 ? [] : [...new Set(numbers(32).map((i) => blockBytes + Math.floor((i * (rest - 1)) / 31)))];
  return { payload, padding: [], footer, storedBytes };
}

async function setup(kit: CaseKit): Promise<Bench> {
  const { limits } = (await kit.create()).backend.manifest;
  return kit.setup({ blockBytes: Math.min(Math.max(BLOCK_BYTES, limits.blockBytesMin), limits.blockBytesMax) });
}

/** Damages one block after the other, each between two that stay whole. */
async function eachDamaged(
  bench: Bench,
  count: number,
  damage: (id: number, n: number) => Promise<void>,
  judge: (outcome: Outcome, code: string, n: number) => void,
): Promise<void> {
  const [before, after] = [100_000, 100_001];
  await bench.mustStore([before, after, ...numbers(count)]);
  for (const id of numbers(count)) {
    await damage(id, id);
    const loaded = await bench.load([before, id, after]);
    const { outcomes } = loaded.result;
    assert.deepEqual(
      [outcomes[0], outcomes[2]],
      [LOADED, LOADED],
      "the neighbours in the batch are whole and must be LOADED",
    );
    bench.assertLoadedContents(loaded, [before, id, after], `after damage ${id}`);
    judge(outcomes[1] as Outcome, describeOutcome(loaded.result, 1), id);
  }
}

function flipCase(part: "payload" | "padding" | "footer", accepted: readonly Outcome[]): ConformanceCase {
  return {
    name: `a block with a flipped bit in its ${part} is ${accepted.length === 1 ? "CORRUPT" : "CORRUPT, or LOADED with the right bytes"}`,
    needs: "verifiesPayload",
    async run(kit) {
      const bench = await setup(kit);
      const { flip } = bindHooks(kit, bench, "flip");
      const offsets = partsOf(bench)[part];
      if (offsets.length === 0) kit.skip(`a stored block has no ${part}`);
      await eachDamaged(
        bench,
        offsets.length,
        (id, n) => flip(bench.key(id), offsets[n] as number),
        (outcome, found, n) =>
          assert.ok(accepted.includes(outcome), `a flip at ${offsets[n]} was answered with ${found}`),
      );
    },
  };
}

/** The hooks, callable without their object. */
function bindHooks(kit: CaseKit, bench: Bench, name: "flip") {
  const hooks = kit.damage(bench, name);
  return { flip: hooks.flip.bind(hooks) };
}

/** Storage that breaks: wrong bytes must never pass as a block, and trouble must have its right name. */
export const damageCases: readonly ConformanceCase[] = [
  flipCase("payload", [CORRUPT]),
  flipCase("padding", [CORRUPT, LOADED]), // the payload's bytes are right, which eachDamaged checks
  flipCase("footer", [CORRUPT]),
  {
    name: "a truncated block is CORRUPT",
    needs: "verifiesPayload",
    async run(kit) {
      const bench = await setup(kit);
      const hooks = kit.damage(bench, "truncate");
      const { storedBytes } = partsOf(bench);
      const { blockBytes } = bench;
      const lengths = [
        0,
        1,
        blockBytes - 1,
        blockBytes,
        blockBytes + 1,
        storedBytes - PAGE_BYTES,
        storedBytes - 1,
      ].filter((length, i, all) => length >= 0 && length < storedBytes && all.indexOf(length) === i);
      await eachDamaged(
        bench,
        lengths.length,
        (id, n) => hooks.truncate(bench.key(id), lengths[n] as number),
        // a payload without a footer is what vLLM writes: not a block of ours, so it may count as absent
        (outcome, found, n) =>
          assert.ok(
            outcome === CORRUPT || (outcome === MISS && lengths[n] === blockBytes),
            `${lengths[n]} bytes: ${found}`,
          ),
      );
    },
  },
  {
    name: "a block that was CORRUPT can be stored again",
    needs: "verifiesPayload",
    async run(kit) {
      const bench = await setup(kit);
      const hooks = kit.damage(bench, "flip");
      await bench.mustStore([1, 2]);
      await hooks.flip(bench.key(1), 0);
      assertOutcomes((await bench.load([1, 2])).result, [CORRUPT, LOADED], "load of a damaged block");
      assertOutcomes((await bench.load([1])).result, [[CORRUPT, MISS]], "a second load");
      assertOutcomes(await bench.store([1]), [STORED], "store after CORRUPT");
      await bench.mustLoad([1, 2]);
      assert.deepEqual([...(await bench.lookup([1, 2]))], [LookupState.HIT, LookupState.HIT]);
      if (bench.backend.manifest.capabilities.usage) assert.equal((await bench.backend.usage()).blocks, 2);
    },
  },
  {
    name: "what a dead writer leaves behind is no block",
    async run(kit) {
      const bench = await setup(kit);
      const hooks = kit.damage(bench, "leaveTempFile");
      await bench.mustStore([1, 2]);
      await hooks.leaveTempFile();
      const { scan, usage, durable } = bench.backend.manifest.capabilities;
      const count = async (each: Bench) => {
        if (scan) assert.deepEqual((await each.scan()).length, 2, "scan must list the blocks alone");
        if (usage) assert.equal((await each.backend.usage()).blocks, 2, "usage must count the blocks alone");
        await each.mustLoad([1, 2]);
      };
      await count(bench);
      await bench.mustStore([3]);
      if (bench.backend.manifest.capabilities.remove) await bench.remove([3]);
      await bench.backend.close();
      if (durable) await count(await kit.reopened(bench));
    },
  },
  {
    name: "a full storage says NO_SPACE, keeps what it has, and takes blocks again when there is room",
    async run(kit) {
      const bench = await setup(kit);
      const hooks = kit.damage(bench, "noSpace");
      const ids = numbers(4);
      await bench.mustStore(ids);
      await hooks.noSpace();
      const refused = numbers(4, 100);
      const result = await bench.store(refused);
      assertOutcomes(
        result,
        refused.map(() => [FAILED, DROPPED]),
        "store into a full storage",
      );
      for (const i of refused.keys())
        assert.equal(outcomeCode(result, i), "NO_SPACE", "the code of a store into a full storage");
      await bench.mustLoad(ids, "load from a full storage");
      await hooks.restore?.();
      await bench.mustMiss(refused, "load of what did not fit");
      await bench.mustStore(refused);
      await bench.mustLoad([...ids, ...refused]);
    },
  },
  {
    name: "storage that may not be written says PERMISSION and works again when it may",
    async run(kit) {
      const bench = await setup(kit);
      const hooks = kit.damage(bench, "denyPermission");
      const ids = numbers(4);
      await bench.mustStore(ids);
      await hooks.denyPermission();
      const refused = numbers(3, 100);
      const result = await bench.store(refused);
      for (const i of refused.keys()) assert.equal(describeOutcome(result, i), "FAILED(PERMISSION)", "store");
      const loaded = await bench.load(ids);
      for (const i of ids.keys()) {
        const found = describeOutcome(loaded.result, i);
        assert.ok(found === "LOADED" || found === "FAILED(PERMISSION)", `load of a block that is there: ${found}`);
      }
      bench.assertLoadedContents(loaded, ids, "load without permission to write");
      await hooks.restore?.();
      assertOutcomes(
        await bench.store(refused),
        refused.map(() => [STORED, PRESENT]),
        "store after the permission is back",
      );
      await bench.mustLoad([...ids, ...refused]);
    },
  },
];

import fc from "fast-check";
import { keyHex, NO_ROW, type PrefixIndex, packKeys } from "../../src/index.js";
import { Model } from "./model.js";

/** Few different keys, so that they meet. */
export const KEYS = 60;
const GROUPS = 3;

export function keyOf(id: number, keyBytes: number = 36, group: number = id % GROUPS): Uint8Array {
  const key = new Uint8Array(keyBytes);
  key[0] = id & 0xff;
  if (keyBytes > 8) new DataView(key.buffer).setUint32(1, id);
  new DataView(key.buffer).setUint32(keyBytes - 4, group);
  return key;
}

export type Operation =
  | { what: "insert"; ids: number[]; tier: number; bytes: number; parent: number | undefined; laterMs: number }
  | { what: "touch" | "observe"; ids: number[]; laterMs: number }
  | { what: "dropTier"; id: number; tier: number }
  | { what: "addTier"; id: number; tier: number }
  | { what: "delete"; id: number };

const id = fc.nat(KEYS - 1);
/** A run of neighbours as a request has them, or anything a client may send: repeats, rings, contradictions. */
const ids = fc.oneof(
  fc
    .record({ first: id, length: fc.nat(20), step: fc.constantFrom(1, 3) })
    .map(({ first, length, step }) => Array.from({ length }, (_, i) => (first + i * step) % KEYS)),
  fc.array(id, { maxLength: 12 }),
);
const tier = fc.constantFrom(1, 2, 3, 128);
const laterMs = fc.constantFrom(0, 50, 400, -300);

export const operation: fc.Arbitrary<Operation> = fc.oneof(
  fc.record({
    what: fc.constant("insert" as const),
    ids,
    tier,
    bytes: fc.constantFrom(0, 4096, 2 ** 32 - 1),
    parent: fc.option(id, { nil: undefined, freq: 2 }),
    laterMs,
  }),
  fc.record({ what: fc.constantFrom("touch" as const, "observe" as const), ids, laterMs }),
  fc.record({ what: fc.constant("dropTier" as const), id, tier }),
  fc.record({ what: fc.constant("addTier" as const), id, tier }),
  fc.record({ what: fc.constant("delete" as const), id }),
);

/** Does the same to an index and to the model, and compares what each of them answers. */
export class Pair {
  readonly model: Model = new Model();
  #nowMs = 1_700_000_000_000;

  constructor(public index: PrefixIndex) {}

  apply(operation: Operation): void {
    const { index, model } = this;
    if ("laterMs" in operation) {
      this.#nowMs += operation.laterMs;
      this.#applyBatch(operation);
      return;
    }
    const key = keyOf(operation.id, index.keyBytes);
    const row = index.find(key);
    if (row === NO_ROW) return;
    if (operation.what === "delete") {
      model.dropTier(key, 255);
      index.delete(row);
    } else if (operation.what === "addTier") {
      (model.blocks.get(keyHex(key)) as { tiers: number }).tiers |= operation.tier;
      index.addTier(row, operation.tier);
    } else {
      same(index.dropTier(row, operation.tier), model.dropTier(key, operation.tier));
    }
  }

  #applyBatch(operation: Exclude<Operation, { id: number }>): void {
    const { index, model } = this;
    const keys = operation.ids.map((each) => keyOf(each, index.keyBytes));
    const batch = packKeys(keys, index.keyBytes);
    const rows = new Int32Array(keys.length);
    if (operation.what === "insert") {
      const { tier, bytes } = operation;
      const parentKey = operation.parent === undefined ? undefined : keyOf(operation.parent, index.keyBytes);
      const parent = parentKey === undefined ? NO_ROW : index.find(parentKey);
      const added = model.insert(keys, tier, bytes, this.#nowMs, parent === NO_ROW ? undefined : parentKey);
      same(index.insert(batch, { tier, bytes, nowMs: this.#nowMs, parent }, rows), added);
      same(keys.map((key) => index.find(key)).join(), rows.join());
      return;
    }
    index.findMany(batch, rows);
    if (operation.what === "touch") {
      index.touch(rows, this.#nowMs);
      model.touch(keys, this.#nowMs);
    } else {
      index.observe(batch, rows);
      model.observe(
        keys,
        Array.from(rows, (row) => row !== NO_ROW),
      );
    }
  }

  /** Compares all that can be asked. */
  check(): void {
    const { index, model } = this;
    const keys = Array.from({ length: KEYS }, (_, each) => keyOf(each, index.keyBytes));
    const batch = packKeys(keys);
    same(index.size, model.blocks.size);
    const rows = new Int32Array(KEYS);
    same(index.findMany(batch, rows), model.blocks.size);
    for (const [i, key] of keys.entries()) same(factsOf(index, rows[i] as number), model.facts(key));
    for (const tiers of [255, 1, 2]) same(index.longestPrefix(batch, tiers), model.longestPrefix(keys, tiers));
    const here = Array.from(index.rows(), (row) => keyHex(index.key(row))).sort();
    same(here, [...model.blocks.keys()].sort());
    const orphans = Array.from(index.orphans(), (row) => keyHex(index.key(row))).sort();
    same(
      orphans,
      here.filter((_, i) => (model.facts(Buffer.from(here[i] as string, "hex")) as { isOrphan: boolean }).isOrphan),
    );
  }
}

function factsOf(index: PrefixIndex, row: number): object | undefined {
  if (row === NO_ROW) return undefined;
  const parent = index.parent(row);
  return {
    tiers: index.tiers(row),
    bytes: index.bytes(row),
    uses: index.uses(row),
    lastUseMs: index.lastUseMs(row),
    parent: parent === NO_ROW ? undefined : keyHex(index.key(parent)),
    isOrphan: index.isOrphan(row),
    children: index.children(row),
  };
}

/** Much quicker than expect(), of which a property test makes millions. */
function same(actual: unknown, expected: unknown): void {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (a !== b) throw new Error(`the index says ${a}, the model ${b}`);
}

import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { canonicalJson, createNamespace, type KvferryError } from "../src/index.js";

const text = fc.string({ minLength: 1, maxLength: 20, unit: "grapheme" });
const count = fc.integer({ min: 1, max: 1000 });
const fields = fc.record({
  model: text,
  weights: fc.uint8Array({ minLength: 16, maxLength: 64 }).map((bytes) => Buffer.from(bytes).toString("hex")),
  dtype: text,
  kvDtype: text,
  layout: text,
  tokensPerHash: count,
  blocksPerChunk: count,
  groups: fc.array(fc.record({ tokensPerBlock: count, layers: fc.array(text, { maxLength: 4 }) }), {
    minLength: 1,
    maxLength: 3,
  }),
  parallel: fc.option(fc.record({ tp: count, pp: count, pcp: count, dcp: count, rank: fc.nat(100) })),
  engine: text,
  engineVersion: text,
  formatVersion: count,
  tenant: fc.string({ maxLength: 10 }),
});

/** The same value with the fields of every map in another order. */
function reversed(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(reversed);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .reverse()
      .map(([key, each]) => [key, reversed(each)]),
  );
}

function errorOf(input: unknown): KvferryError {
  try {
    createNamespace(input);
  } catch (error) {
    return error as KvferryError;
  }
  throw new Error("it was accepted");
}

describe("a namespace", { timeout: 30_000 }, () => {
  it("does not depend on the order of its fields", () => {
    fc.assert(
      fc.property(fields, (each) => {
        expect(createNamespace(reversed(each)).digestHex).toBe(createNamespace(each).digestHex);
      }),
    );
  });

  it("depends on every field", () => {
    fc.assert(
      fc.property(fields, fields, (one, other) => {
        const base = createNamespace(one).digestHex;
        for (const name of Object.keys(one) as (keyof typeof one)[]) {
          const changed = createNamespace({ ...one, [name]: other[name] }).digestHex;
          expect(changed === base).toBe(canonicalJson(one[name]) === canonicalJson(other[name]));
        }
      }),
    );
  });

  it("is the SHA-256 of its canonical JSON, as another language would compute it", () => {
    const each = {
      ...{ model: "org/модель", weights: "ab".repeat(32), dtype: "bfloat16", kvDtype: "auto", layout: "NHD" },
      ...{
        tokensPerHash: 16,
        blocksPerChunk: 1,
        groups: [{ tokensPerBlock: 16, layers: ["l0", "l1"] }],
        parallel: null,
      },
      ...{ engine: "vllm", engineVersion: "0.31.0", formatVersion: 1, tenant: "" },
    };
    const json =
      '{"blocksPerChunk":1,"dtype":"bfloat16","engine":"vllm","engineVersion":"0.31.0","formatVersion":1,' +
      '"groups":[{"layers":["l0","l1"],"tokensPerBlock":16}],"kvDtype":"auto","layout":"NHD","model":"org/модель",' +
      `"parallel":null,"tenant":"","tokensPerHash":16,"weights":"${"ab".repeat(32)}"}`;
    expect(canonicalJson(each)).toBe(json);
    expect(createNamespace(each).digestHex).toBe(createHash("sha256").update(json, "utf8").digest("hex"));
    expect(Buffer.from(createNamespace(each).digest).toString("hex")).toBe(createNamespace(each).digestHex);
  });

  it("names every field that is missing", () => {
    fc.assert(
      fc.property(fields, (each) => {
        for (const name of Object.keys(each)) {
          const { [name as keyof typeof each]: _, ...rest } = each;
          expect(errorOf(rest)).toMatchObject({ code: "INVALID_ARGUMENT", context: { field: name } });
        }
        for (const name of ["tokensPerBlock", "layers"] as const) {
          const { [name]: _, ...group } = { tokensPerBlock: 1, layers: [], ...each.groups[0] };
          expect(errorOf({ ...each, groups: [group] })).toMatchObject({ context: { field: `groups[0].${name}` } });
        }
        for (const name of ["tp", "pp", "pcp", "dcp", "rank"] as const) {
          const { [name]: _, ...parallel } = { tp: 1, pp: 1, pcp: 1, dcp: 1, rank: 0 };
          expect(errorOf({ ...each, parallel })).toMatchObject({ context: { field: `parallel.${name}` } });
        }
      }),
      { numRuns: 20 },
    );
  });

  it("refuses fields that nobody knows, however they are called", () => {
    fc.assert(
      fc.property(
        fields,
        fc.constantFrom("weight", "toString", "constructor", "hasOwnProperty", "Model"),
        (each, name) => {
          expect(errorOf({ ...each, [name]: "x" })).toMatchObject({
            code: "INVALID_ARGUMENT",
            context: { field: name },
          });
          const group = { ...each.groups[0], [name]: 1 };
          expect(errorOf({ ...each, groups: [group] })).toMatchObject({ context: { field: `groups[0].${name}` } });
        },
      ),
      { numRuns: 30 },
    );
  });

  it("refuses values that are not of their kind", () => {
    const [each] = fc.sample(fields, 1);
    const wrong: readonly (readonly [string, unknown])[] = [
      ...(["model", "dtype", "engine", "layout"] as const).flatMap(
        (name) =>
          [
            [name, ""],
            [name, 1],
            [name, "x".repeat(4097)],
          ] as const,
      ),
      ...([
        ["weights", "AB".repeat(32)],
        ["weights", "ab"],
        ["weights", "zz".repeat(32)],
        ["groups", []],
        ["groups", {}],
      ] as const),
      ...([
        ["tokensPerHash", 0],
        ["tokensPerHash", 1.5],
        ["formatVersion", "1"],
        ["parallel", 1],
        ["tenant", null],
      ] as const),
    ];
    for (const [field, value] of wrong)
      expect(errorOf({ ...each, [field]: value })).toMatchObject({ context: { field } });
    for (const input of [null, undefined, 1, "x", []])
      expect(errorOf(input)).toMatchObject({ code: "INVALID_ARGUMENT" });
  });

  it("cannot be changed afterwards", () => {
    const [each] = fc.sample(fields, 1);
    const { fields: kept } = createNamespace(each);
    expect(() => (kept.groups as unknown[]).push({})).toThrow();
    expect(() => ((kept as { model: string }).model = "other")).toThrow();
  });
});

import { createHash } from "node:crypto";
import { KvferryError } from "./errors.js";

/** One KV cache group: how many tokens a block covers and which layers it holds, in order. */
export interface NamespaceGroup {
  readonly tokensPerBlock: number;
  readonly layers: readonly string[];
}

/** Where a worker stands; left out (`null`) where the bytes do not depend on it. */
export interface NamespaceParallel {
  readonly tp: number;
  readonly pp: number;
  readonly pcp: number;
  readonly dcp: number;
  readonly rank: number;
}

/** The identity of the bytes: two engines may share blocks exactly when all of this is equal. */
export interface NamespaceFields {
  readonly model: string;
  /** Fingerprint of the weights: hex of 16 to 64 bytes. */
  readonly weights: string;
  readonly dtype: string;
  readonly kvDtype: string;
  /** Name of the byte layout within a chunk. */
  readonly layout: string;
  readonly tokensPerHash: number;
  readonly blocksPerChunk: number;
  readonly groups: readonly NamespaceGroup[];
  readonly parallel: NamespaceParallel | null;
  readonly engine: string;
  readonly engineVersion: string;
  /** Version of the format of the bytes that the engine's plugin writes. */
  readonly formatVersion: number;
  /** Tenants never share blocks; "" is the common one. */
  readonly tenant: string;
}

export interface Namespace {
  readonly fields: NamespaceFields;
  /** SHA-256 of the canonical JSON of the fields: 32 bytes. */
  readonly digest: Uint8Array;
  readonly digestHex: string;
}

const TEXT_LENGTH_MAX = 4096;
const LIST_LENGTH_MAX = 4096;

/** Checks the fields and computes the digest. Unknown fields are refused too: they would split or, worse, merge caches.
 * @throws KvferryError INVALID_ARGUMENT with `context.field`, for instance `groups[0].layers`. */
export function createNamespace(input: unknown): Namespace {
  const source = record(input, "namespace");
  const fields: NamespaceFields = {
    model: text(source, "model", 1),
    weights: hex(source, "weights"),
    dtype: text(source, "dtype", 1),
    kvDtype: text(source, "kvDtype", 1),
    layout: text(source, "layout", 1),
    tokensPerHash: positive(source, "tokensPerHash"),
    blocksPerChunk: positive(source, "blocksPerChunk"),
    groups: groupsOf(source),
    parallel: parallelOf(source),
    engine: text(source, "engine", 1),
    engineVersion: text(source, "engineVersion", 1),
    formatVersion: positive(source, "formatVersion"),
    tenant: text(source, "tenant", 0),
  };
  refuseUnknown(source, fields, "");
  const digest = createHash("sha256").update(canonicalJson(fields)).digest();
  return Object.freeze({
    fields: freezeAll(fields),
    digest: new Uint8Array(digest),
    digestHex: digest.toString("hex"),
  });
}

/** Two engines read the same object: neither may change what the other sees. */
function freezeAll<Value>(value: Value): Value {
  if (typeof value !== "object" || value === null) return value;
  for (const each of Object.values(value)) freezeAll(each);
  return Object.freeze(value);
}

/** JSON with sorted keys, no white space, integers only: equal values give equal text in every language. */
export function canonicalJson(value: unknown): string {
  if (value === null || typeof value === "string" || typeof value === "boolean") return JSON.stringify(value);
  if (typeof value === "number") {
    if (!Number.isSafeInteger(value))
      throw new KvferryError("INVALID_ARGUMENT", `canonical JSON takes integers, got ${value}`);
    return String(value);
  }
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
  const entries = Object.entries(value as Record<string, unknown>).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  return `{${entries.map(([key, each]) => `${JSON.stringify(key)}:${canonicalJson(each)}`).join(",")}}`;
}

function groupsOf(source: Record<string, unknown>): NamespaceGroup[] {
  const list = array(source, "groups");
  if (list.length === 0) throw invalid("groups", "needs at least one group");
  return list.map((each, i) => {
    const at = `groups[${i}]`;
    const group = record(each, at);
    const layers = array(group, "layers", `${at}.`);
    const result = {
      tokensPerBlock: positive(group, "tokensPerBlock", `${at}.`),
      layers: layers.map((layer, j) => {
        if (typeof layer !== "string" || layer.length === 0 || layer.length > TEXT_LENGTH_MAX) {
          throw invalid(`${at}.layers[${j}]`, "must be a layer's name");
        }
        return layer;
      }),
    };
    refuseUnknown(group, result, `${at}.`);
    return result;
  });
}

function parallelOf(source: Record<string, unknown>): NamespaceParallel | null {
  const value = source.parallel;
  if (value === null) return null;
  if (value === undefined) throw missing("parallel", "null where the bytes do not depend on it");
  const parallel = record(value, "parallel");
  const result = {
    tp: positive(parallel, "tp", "parallel."),
    pp: positive(parallel, "pp", "parallel."),
    pcp: positive(parallel, "pcp", "parallel."),
    dcp: positive(parallel, "dcp", "parallel."),
    rank: whole(parallel, "rank", 0, "parallel."),
  };
  refuseUnknown(parallel, result, "parallel.");
  return result;
}

function record(value: unknown, at: string): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw invalid(at, "must be a map of fields");
  return value as Record<string, unknown>;
}

function array(source: Record<string, unknown>, name: string, prefix = ""): unknown[] {
  const value = source[name];
  if (value === undefined) throw missing(prefix + name);
  if (!Array.isArray(value) || value.length > LIST_LENGTH_MAX) {
    throw invalid(prefix + name, `must be a list of at most ${LIST_LENGTH_MAX}`);
  }
  return value;
}

function text(source: Record<string, unknown>, name: string, lengthMin: number): string {
  const value = source[name];
  if (value === undefined) throw missing(name);
  if (typeof value !== "string" || value.length < lengthMin || value.length > TEXT_LENGTH_MAX) {
    throw invalid(name, `must be a text of ${lengthMin} to ${TEXT_LENGTH_MAX} characters`);
  }
  return value;
}

function hex(source: Record<string, unknown>, name: string): string {
  const value = text(source, name, 1);
  if (!/^([0-9a-f]{2}){16,64}$/.test(value)) throw invalid(name, "must be lower-case hex of 16 to 64 bytes");
  return value;
}

function positive(source: Record<string, unknown>, name: string, prefix = ""): number {
  return whole(source, name, 1, prefix);
}

function whole(source: Record<string, unknown>, name: string, min: number, prefix: string): number {
  const value = source[name];
  if (value === undefined) throw missing(prefix + name);
  if (!Number.isSafeInteger(value) || (value as number) < min) {
    throw invalid(prefix + name, `must be a whole number of at least ${min}`);
  }
  return value as number;
}

function refuseUnknown(source: Record<string, unknown>, known: object, prefix: string): void {
  for (const name of Object.keys(source)) {
    if (!Object.hasOwn(known, name)) throw invalid(prefix + name, "is not a field of a namespace");
  }
}

function missing(field: string, hint = ""): KvferryError {
  return new KvferryError("INVALID_ARGUMENT", `namespace field '${field}' is missing${hint ? `: ${hint}` : ""}`, {
    operation: "namespace",
    context: { field },
  });
}

function invalid(field: string, reason: string): KvferryError {
  return new KvferryError("INVALID_ARGUMENT", `namespace field '${field}' ${reason}`, {
    operation: "namespace",
    context: { field },
  });
}

import { KvferryError } from "@kvferry/core";
import type { WireMap, WireValue } from "./msgpack.js";

/** Reads the fields of one map and names the field that is wrong. All throw KvferryError PROTOCOL with `context.field`. */
export class Fields {
  readonly #map: WireMap;
  readonly #prefix: string;

  constructor(map: WireMap, prefix = "") {
    this.#map = map;
    this.#prefix = prefix;
  }

  integer(name: string, min: number, max: number): number {
    const value = this.#required(name);
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < min || value > max) {
      throw this.wrong(name, `must be a whole number from ${min} to ${max}`);
    }
    return value;
  }

  text(name: string, lengthMax: number): string {
    const value = this.#required(name);
    if (typeof value !== "string" || value.length > lengthMax) {
      throw this.wrong(name, `must be a text of at most ${lengthMax} characters`);
    }
    return value;
  }

  boolean(name: string): boolean {
    const value = this.#required(name);
    if (typeof value !== "boolean") throw this.wrong(name, "must be true or false");
    return value;
  }

  binary(name: string): Uint8Array {
    const value = this.#required(name);
    if (!(value instanceof Uint8Array)) throw this.wrong(name, "must be binary (MessagePack bin)");
    return value;
  }

  map(name: string): Fields {
    return new Fields(this.raw(name), `${this.#prefix}${name}.`);
  }

  list(name: string, countMax: number): readonly WireValue[] {
    const value = this.#required(name);
    if (!Array.isArray(value) || value.length > countMax)
      throw this.wrong(name, `must be a list of at most ${countMax}`);
    return value as readonly WireValue[];
  }

  /** Packed numbers of `width` bytes each. */
  packed(name: string, width: number): Uint8Array {
    const bytes = this.binary(name);
    if (bytes.length % width !== 0) throw this.wrong(name, `has ${bytes.length} bytes, no multiple of ${width}`);
    return bytes;
  }

  /** The map as it came. */
  raw(name: string): WireMap {
    const value = this.#required(name);
    if (!isMap(value)) throw this.wrong(name, "must be a map");
    return value;
  }

  /** The only map of a list. */
  single(name: string): Fields {
    const value = this.#required(name);
    if (!Array.isArray(value) || value.length !== 1 || !isMap(value[0] as WireValue)) {
      throw this.wrong(name, "must be a list of exactly one map in version 1");
    }
    return new Fields(value[0] as WireMap, `${this.#prefix}${name}[0].`);
  }

  has(name: string): boolean {
    return this.#map[name] !== undefined && this.#map[name] !== null;
  }

  wrong(name: string, reason: string): KvferryError {
    const field = this.#prefix + name;
    return new KvferryError("PROTOCOL", `field '${field}' ${reason}`, { operation: "decode", context: { field } });
  }

  #required(name: string): WireValue {
    const value = this.#map[name];
    if (value === undefined) throw this.wrong(name, "is missing");
    return value;
  }
}

function isMap(value: WireValue): value is WireMap {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array);
}

import { KvferryError } from "@kvferry/core";
import { MESSAGE_DEPTH_MAX, MESSAGE_VALUES_MAX } from "./limits.js";

/** What a MessagePack body of this protocol can hold. */
export type WireValue = null | boolean | number | string | Uint8Array | readonly WireValue[] | WireMap;

/** A map with text keys. It has no prototype: a key such as `__proto__` is a key like any other. */
export interface WireMap {
  readonly [key: string]: WireValue | undefined;
}

/**
 * Decodes a body: exactly one map with text keys. Bytes are views of `body`.
 *
 * A decoder of our own, because this one reads what strangers send: general ones allocate what a header claims (five bytes ask
 * for a list of 32 million), build functions from record definitions and revive extension types. This one
 * takes no extensions, allocates only for values that are there, and has bounds on depth and number of values.
 *
 * @throws KvferryError PROTOCOL for everything else.
 */
export function decodeBody(body: Uint8Array): WireMap {
  const reader = new Reader(body);
  const head = reader.byte();
  const map = reader.mapOf(head);
  if (map === undefined) throw malformed(`a message is a map, not a value of type 0x${head.toString(16)}`);
  if (reader.position !== body.length) throw malformed(`${body.length - reader.position} bytes after the message`);
  return map;
}

class Reader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  position = 0;
  #depth = 0;
  #values = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  byte(): number {
    return this.#view.getUint8(this.#take(1));
  }

  /** The map that `head` begins, or undefined if it begins something else. */
  mapOf(head: number): WireMap | undefined {
    if (head >= 0x80 && head <= 0x8f) return this.#map(head & 0x0f);
    if (head === 0xde) return this.#map(this.#uint(2));
    if (head === 0xdf) return this.#map(this.#uint(4));
    return undefined;
  }

  #value(): WireValue {
    const head = this.byte();
    if (head <= 0x7f) return head;
    if (head >= 0xe0) return head - 0x100;
    if (head >= 0xa0 && head <= 0xbf) return this.#text(head & 0x1f);
    if (head >= 0x90 && head <= 0x9f) return this.#list(head & 0x0f);
    return this.mapOf(head) ?? this.#sized(head);
  }

  #sized(head: number): WireValue {
    switch (head) {
      case 0xc0:
        return null;
      case 0xc2:
        return false;
      case 0xc3:
        return true;
      case 0xc4:
      case 0xc5:
      case 0xc6:
        return this.#binary(this.#uint(1 << (head - 0xc4)));
      case 0xca:
        return this.#view.getFloat32(this.#take(4));
      case 0xcb:
        return this.#view.getFloat64(this.#take(8));
      case 0xcc:
      case 0xcd:
      case 0xce:
        return this.#uint(1 << (head - 0xcc));
      case 0xcf:
        return this.#long(this.#view.getBigUint64(this.#take(8)));
      case 0xd0:
        return this.#view.getInt8(this.#take(1));
      case 0xd1:
        return this.#view.getInt16(this.#take(2));
      case 0xd2:
        return this.#view.getInt32(this.#take(4));
      case 0xd3:
        return this.#long(this.#view.getBigInt64(this.#take(8)));
      case 0xd9:
      case 0xda:
      case 0xdb:
        return this.#text(this.#uint(1 << (head - 0xd9)));
      case 0xdc:
        return this.#list(this.#uint(2));
      case 0xdd:
        return this.#list(this.#uint(4));
      default:
        throw malformed(`values of type 0x${head.toString(16)} are not part of this protocol`);
    }
  }

  #uint(bytes: number): number {
    const at = this.#take(bytes);
    if (bytes === 1) return this.#view.getUint8(at);
    return bytes === 2 ? this.#view.getUint16(at) : this.#view.getUint32(at);
  }

  #long(value: bigint): number {
    const number = Number(value);
    if (!Number.isSafeInteger(number)) throw malformed(`the integer ${value} does not fit 53 bits`);
    return number;
  }

  #binary(length: number): Uint8Array {
    const at = this.#take(length);
    return this.#bytes.subarray(at, at + length);
  }

  #text(length: number): string {
    const at = this.#take(length);
    // Names of fields and types: short and ASCII. A decoder call costs more than they do.
    if (length <= 16) {
      let text = "";
      for (let i = at; i < at + length; i++) {
        const code = this.#bytes[i] as number;
        if (code > 0x7f) return this.#utf8(at, length);
        text += String.fromCharCode(code);
      }
      return text;
    }
    return this.#utf8(at, length);
  }

  #utf8(at: number, length: number): string {
    try {
      return utf8.decode(this.#bytes.subarray(at, at + length));
    } catch {
      throw malformed("a text is not valid UTF-8");
    }
  }

  #list(length: number): WireValue[] {
    this.#enter(length);
    const list: WireValue[] = [];
    for (let i = 0; i < length; i++) list.push(this.#value());
    this.#depth--;
    return list;
  }

  #map(length: number): WireMap {
    this.#enter(length * 2);
    const map = Object.create(null) as Record<string, WireValue>;
    for (let i = 0; i < length; i++) {
      const key = this.#value();
      if (typeof key !== "string") throw malformed("the keys of a map are texts");
      if (key in map) throw malformed(`the key '${key.slice(0, 64)}' is twice in a map`);
      map[key] = this.#value();
    }
    this.#depth--;
    return map;
  }

  #enter(values: number): void {
    this.#values += values;
    this.#depth++;
    if (this.#depth > MESSAGE_DEPTH_MAX) throw malformed(`nested deeper than ${MESSAGE_DEPTH_MAX}`);
    if (this.#values > MESSAGE_VALUES_MAX) throw malformed(`more than ${MESSAGE_VALUES_MAX} values`);
  }

  #take(bytes: number): number {
    const at = this.position;
    if (at + bytes > this.#bytes.length) throw malformed("the message ends in the middle of a value");
    this.position = at + bytes;
    return at;
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function malformed(reason: string): KvferryError {
  return new KvferryError("PROTOCOL", `malformed message: ${reason}`, { operation: "decode" });
}

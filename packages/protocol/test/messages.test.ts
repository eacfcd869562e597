import { KvferryError } from "@kvferry/core";
import fc from "fast-check";
import { pack } from "msgpackr";
import { describe, expect, it } from "vitest";
import {
  type ClientMessage,
  decodeBody,
  decodeClientMessage,
  decodeServerMessage,
  encodeMessage,
  errorMessage,
  MESSAGE_DEPTH_MAX,
  type ServerMessage,
} from "../src/index.js";
import { clientMessages, hello, serverMessages, worker, workerHello } from "./samples.js";

const HEADER_BYTES = 4;

function bodyOf(message: ClientMessage | ServerMessage): Uint8Array {
  return encodeMessage(message).slice(HEADER_BYTES);
}

/** Bytes as plain lists and maps with a prototype, so that messages compare by content. */
function plain(value: unknown): unknown {
  if (value instanceof Uint8Array || value instanceof Uint32Array || value instanceof Float64Array) return [...value];
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, plain(each)]));
}

/** HELLO of a worker, as it travels, with some of `direct` changed. */
function direct(changes: Record<string, unknown>): unknown {
  const wire = {
    ...worker,
    memory: { kind: "process", memories: [[1, 1]] },
    tensors: [[0, 0, 1, 1, 1]],
    groups: [[[0, 1]]],
  };
  return { ...workerHello, direct: { ...wire, ...changes } };
}

function throwsOnlyProtocol(decode: () => unknown): void {
  try {
    decode();
  } catch (thrown) {
    if (!(thrown instanceof KvferryError) || thrown.code !== "PROTOCOL") throw thrown;
  }
}

describe("messages", () => {
  it.each(clientMessages)("of a client arrive as they were sent: $t", (message) => {
    expect(plain(decodeClientMessage(bodyOf(message)))).toEqual(plain(message));
  });

  it.each(serverMessages)("of a server arrive as they were sent: $t", (message) => {
    expect(plain(decodeServerMessage(bodyOf(message)))).toEqual(plain(message));
  });

  it("hold integers, not floats, where a size does not fit 32 bits", () => {
    const body = Buffer.from(bodyOf(hello));
    expect(body.includes(Buffer.from([0xd3, 0, 0, 1, 0, 0, 0, 0, 0]))).toBe(true); // 2^40 in 64 bits
    expect(body.includes(0xcb)).toBe(false);
  });

  it("carry bytes as MessagePack bin", () => {
    const body = Buffer.from(bodyOf({ t: "lookup", id: 1, keys: new Uint8Array(36) }));
    expect(body.includes(Buffer.from([0xc4, 36]))).toBe(true);
  });

  it("ignore entries that a newer peer may add", () => {
    const body = pack({ t: "ping", id: 1, colour: "red", more: [1, { a: null }] });
    expect(decodeClientMessage(body)).toEqual({ t: "ping", id: 1 });
  });

  it.each([
    ["t", {}],
    ["t", { t: "sing" }],
    ["id", { t: "ping" }],
    ["id", { t: "ping", id: -1 }],
    ["id", { t: "ping", id: 2 ** 33 }],
    ["id", { t: "ping", id: 1.5 }],
    ["id", { t: "ping", id: "1" }],
    ["keys", { t: "lookup", id: 1 }],
    ["keys", { t: "lookup", id: 1, keys: "text" }],
    ["slots", { t: "store", id: 1, keys: Buffer.alloc(5), slots: [1] }],
    ["slots", { t: "load", id: 1, keys: Buffer.alloc(5), slots: Buffer.alloc(5) }],
    ["target", { t: "cancel", id: 1 }],
    ["client.instance", { ...hello, client: { name: "a", version: "b" } }],
    ["namespace", { ...hello, namespace: "all" }],
    ["keyBytes", { ...hello, keyBytes: 4 }],
    ["keyBytes", { ...hello, keyBytes: 129 }],
    ["regions", { ...hello, regions: [] }],
    ["regions", { ...hello, regions: [{ bytes: 1 }, { bytes: 1 }] }],
    ["regions[0].bytes", { ...hello, regions: [{}] }],
    ["fragments[0].stride", { ...hello, fragments: [{ region: 0, offset: 0, bytes: 1 }] }],
    ["fragments[0].region", { ...hello, fragments: [{ region: 1, offset: 0, stride: 1, bytes: 1 }] }],
    ["slots", { ...hello, slots: 0 }],
    ["vllmFs.rank", { ...hello, vllmFs: { base: "a", config: "" } }],
    ["events", { ...hello, events: 1 }],
    ["keys", { t: "release" }],
    ["id", { t: "hold", keys: Buffer.alloc(36) }],
    ["ticket", { t: "gather", id: 1, keys: Buffer.alloc(36), groups: Buffer.alloc(4), blocks: Buffer.alloc(4) }],
    ["groups", { t: "scatter", id: 1, keys: Buffer.alloc(36), groups: Buffer.alloc(3), blocks: Buffer.alloc(4) }],
    ["blocks", { t: "scatter", id: 1, keys: Buffer.alloc(36), groups: Buffer.alloc(4), blocks: [1] }],
    ["direct.role", direct({ role: "boss" })],
    ["direct.engine", direct({ engine: "" })],
    ["direct.engine", direct({ engine: "x".repeat(129) })],
    ["direct.parts", direct({ parts: 1025 })],
    ["direct.partBytes", direct({ partBytes: 0 })],
    ["direct.part", direct({ part: -1 })],
    ["direct.stores", direct({ stores: 1 })],
    ["direct.memory.kind", direct({ memory: { kind: "disk", memories: [] } })],
    ["direct.memory.memories", direct({ memory: { kind: "process", memories: new Array(4097).fill([1, 1]) } })],
    ["direct.memory.memories", direct({ memory: { kind: "region", memories: new Array(17).fill([1]) } })],
    ["direct.memory.memories[1]", direct({ memory: { kind: "process", memories: [[1, 1], [1]] } })],
    ["direct.memory.memories[0][0]", direct({ memory: { kind: "process", memories: [[0, 1]] } })],
    ["direct.memory.memories[0][1]", direct({ memory: { kind: "process", memories: [[1, 0.5]] } })],
    ["direct.memory.uuid", direct({ memory: { kind: "cuda", uuid: Buffer.alloc(15), memories: [] } })],
    [
      "direct.memory.memories[0][0]",
      direct({ memory: { kind: "cuda", uuid: Buffer.alloc(16), memories: [[Buffer.alloc(63), 0, 1]] } }),
    ],
    ["direct.tensors", direct({ tensors: new Array(4097).fill([0, 0, 1, 1, 1]) })],
    ["direct.tensors[0]", direct({ tensors: [[0, 0, 1, 1]] })],
    ["direct.tensors[0][3]", direct({ tensors: [[0, 0, 1, 0, 1]] })],
    ["direct.tensors[0][4]", direct({ tensors: [[0, 0, 1, 1, 2 ** 32]] })],
    ["direct.groups", direct({ groups: new Array(1025).fill([]) })],
    ["direct.groups[0]", direct({ groups: [1] })],
    ["direct.groups[0][1]", direct({ groups: [[[0, 1], 2]] })],
    ["direct.groups[0][0][1]", direct({ groups: [[[0, 0]]] })],
    ["direct.blocksPerChunk", direct({ blocksPerChunk: 65_537 })],
  ])("name the field that is wrong: %s", (field, message) => {
    expect(() => decodeClientMessage(pack(message))).toThrow(
      expect.objectContaining({ code: "PROTOCOL", context: { field } }),
    );
  });

  it("of direct mode arrive as they were sent, whatever the numbers", () => {
    const size = fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER });
    const offset = fc.nat({ max: Number.MAX_SAFE_INTEGER });
    const page = fc.integer({ min: 1, max: 2 ** 31 });
    const u32 = fc.nat({ max: 2 ** 32 - 1 });
    const exact = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
    const memory = fc.oneof(
      fc.record({
        kind: fc.constant("process" as const),
        memories: fc.array(fc.record({ address: size, bytes: size })),
      }),
      fc.record({
        kind: fc.constant("cuda" as const),
        uuid: exact(16),
        memories: fc.array(fc.record({ handle: exact(64), offset, bytes: size })),
      }),
      fc.record({
        kind: fc.constant("region" as const),
        memories: fc.array(fc.record({ bytes: size }), { maxLength: 16 }),
      }),
    );
    const tensor = fc.record({
      memory: fc.nat(4095),
      offset,
      strideBytes: size,
      pageBytes: page,
      pages: fc.integer({ min: 1, max: 2 ** 32 - 1 }),
    });
    const hello = fc
      .record({
        engine: fc.string({ minLength: 1, maxLength: 128 }),
        parts: fc.integer({ min: 1, max: 1024 }),
        partBytes: page,
        part: fc.nat(1023),
        stores: fc.boolean(),
        memory,
        tensors: fc.array(tensor),
        groups: fc.array(fc.array(fc.record({ tensor: fc.nat(4095), bytes: page }))),
        blocksPerChunk: fc.integer({ min: 1, max: 65_536 }),
      })
      .map((fields): ClientMessage => ({ ...workerHello, direct: { role: "worker", ...fields } }));
    const numbers = fc.array(u32).map((list) => Uint32Array.from(list));
    const chunks = { id: u32, keys: fc.uint8Array(), groups: numbers, blocks: numbers };
    const gather = fc.record({ t: fc.constant("gather" as const), ticket: u32, ...chunks });
    const scatter = fc.record({ t: fc.constant("scatter" as const), ...chunks });
    fc.assert(
      fc.property(fc.oneof(hello, gather, scatter), (message) => {
        expect(plain(decodeClientMessage(bodyOf(message)))).toEqual(plain(message));
      }),
    );
    const held = fc.record({
      t: fc.constant("held" as const),
      id: u32,
      outcomes: fc.uint8Array(),
      codes: fc.uint8Array(),
      offsets: fc.array(offset).map((list) => Float64Array.from(list)),
      us: offset,
    });
    fc.assert(
      fc.property(held, (message) => {
        expect(plain(decodeServerMessage(bodyOf(message)))).toEqual(plain(message));
      }),
    );
  });

  it("tell of errors without what could be large or private", () => {
    const error = new KvferryError("IO", "x".repeat(5000), {
      context: { path: "/a", errno: 5, bytes: new Uint8Array(9), nested: { a: 1 }, long: "y".repeat(5000) },
    });
    const message = errorMessage(error, 3);
    expect(message.context).toEqual({ path: "/a", errno: 5, long: "y".repeat(1024) });
    expect(message.message).toHaveLength(1024);
    expect(() => decodeServerMessage(bodyOf(message))).not.toThrow();
  });
});

describe("bodies from strangers", () => {
  it("of random bytes cause PROTOCOL and nothing else", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        throwsOnlyProtocol(() => decodeClientMessage(bytes));
        throwsOnlyProtocol(() => decodeServerMessage(bytes));
      }),
      { numRuns: 20_000 },
    );
  });

  it("that were valid and got damaged cause PROTOCOL and nothing else", () => {
    const bodies = [...clientMessages, ...serverMessages].map(bodyOf);
    const change = fc.record({ at: fc.nat(), value: fc.nat(255), cut: fc.boolean() });
    fc.assert(
      fc.property(fc.constantFrom(...bodies), fc.array(change, { minLength: 1, maxLength: 4 }), (valid, changes) => {
        let bytes = valid.slice();
        for (const { at, value, cut } of changes) {
          if (bytes.length === 0) break;
          bytes[at % bytes.length] = value;
          if (cut) bytes = bytes.slice(0, at % bytes.length);
        }
        throwsOnlyProtocol(() => decodeClientMessage(bytes));
        throwsOnlyProtocol(() => decodeServerMessage(bytes));
      }),
      { numRuns: 10_000 },
    );
  });

  it("mean what another MessagePack library wrote", () => {
    const value = fc.letrec((tie) => ({
      value: fc.oneof(
        { maxDepth: 4 },
        fc.integer(),
        fc.string(),
        fc.boolean(),
        fc.constant(null),
        fc.double({ noNaN: true }).map((number) => number + 0), // that library has no -0
        fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
        fc.array(tie("value"), { maxLength: 20 }),
        fc.dictionary(fc.string(), tie("value"), { maxKeys: 20 }),
      ),
    })).value;
    fc.assert(
      fc.property(fc.dictionary(fc.string(), value, { maxKeys: 20 }), (map) => {
        expect(plain(decodeBody(pack(map)))).toEqual(plain(map));
      }),
    );
  });

  it("cannot claim more than they bring", () => {
    const before = process.memoryUsage().heapUsed;
    for (let i = 0; i < 1000; i++) {
      // {"a": a list of 4 billion, of lists of 4 billion …}
      const nested = Array.from({ length: 12 }, () => [0xdd, 0xff, 0xff, 0xff, 0xff]).flat();
      throwsOnlyProtocol(() => decodeBody(Uint8Array.from([0x81, 0xa1, 0x61, ...nested])));
    }
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(64 * 2 ** 20);
  });

  it.each([
    ["values nested too deep", [0x81, 0xa1, 0x61, ...new Array(MESSAGE_DEPTH_MAX).fill(0x91), 1]],
    ["too many values", [0x81, 0xa1, 0x61, 0xdd, 0, 1, 0, 0, ...new Array(2 ** 16).fill(0xc0)]],
    ["an extension type", [0x81, 0xa1, 0x61, 0xd4, 0x72, 0x40]],
    ["a timestamp", [0x81, 0xa1, 0x61, 0xd6, 0xff, 0, 0, 0, 0]],
    ["a key twice", [0x82, 0xa1, 0x61, 1, 0xa1, 0x61, 2]],
    ["a key that is no text", [0x81, 1, 1]],
    ["bytes after the map", [0x80, 0x80]],
    ["an integer over 53 bits", [0x81, 0xa1, 0x61, 0xcf, 0xff, 0, 0, 0, 0, 0, 0, 0]],
    ["invalid UTF-8", [0x81, 0xa1, 0x61, 0xa2, 0xc3, 0x28]],
    ["a list instead of a map", [0x90]],
    ["nothing", []],
  ])("are refused with %s", (_name, bytes) => {
    expect(() => decodeBody(Uint8Array.from(bytes))).toThrow(expect.objectContaining({ code: "PROTOCOL" }));
  });

  it("may be as deep as the bound allows", () => {
    const bytes = [0x81, 0xa1, 0x61, ...new Array(MESSAGE_DEPTH_MAX - 1).fill(0x91), 1];
    expect(() => decodeBody(Uint8Array.from(bytes))).not.toThrow();
  });

  it("cannot reach a prototype", () => {
    const map = decodeBody(Uint8Array.from([0x81, 0xa9, ...Buffer.from("__proto__"), 0x81, 0xa1, 0x61, 1]));
    expect(Object.keys(map)).toEqual(["__proto__"]);
    expect(({} as { a?: unknown }).a).toBeUndefined();
  });
});

import type {
  DirectEngineFields,
  DirectGroupTensor,
  DirectHelloMessage,
  DirectMemory,
  DirectTensor,
  DirectWelcome,
  HeldMessage,
  StoredMessage,
} from "./direct-messages.js";
import type { Fields } from "./fields.js";
import {
  BLOCKS_PER_CHUNK_MAX,
  CUDA_HANDLE_BYTES,
  CUDA_UUID_BYTES,
  DESCRIPTORS_MAX,
  ENGINE_NAME_LENGTH_MAX,
  GROUPS_MAX,
  MEMORIES_MAX,
  PARTS_MAX,
  REQUEST_ID_MAX,
  TENSORS_MAX,
} from "./limits.js";
import type { DirectRequestMessage } from "./messages.js";
import type { WireValue } from "./msgpack.js";
import { unpackUint32, unpackUint64 } from "./packed-numbers.js";

const KIND_LENGTH_MAX = 32;
const PART_BYTES_MAX: number = 2 ** 31;
const UINT32_MAX: number = 2 ** 32 - 1;
const { MAX_SAFE_INTEGER } = Number;

/** The entry `direct` of HELLO. */
export function directHello(fields: Fields): DirectHelloMessage["direct"] {
  const role = fields.text("role", KIND_LENGTH_MAX);
  if (role === "scheduler") {
    return { role, ...engineFields(fields), workers: fields.integer("workers", 1, PARTS_MAX) };
  }
  if (role !== "worker") throw fields.wrong("role", "must be scheduler or worker");
  return {
    role,
    ...engineFields(fields),
    part: fields.integer("part", 0, PARTS_MAX - 1),
    stores: fields.boolean("stores"),
    memory: memoryOf(fields.map("memory")),
    tensors: tuples(fields, "tensors", 5, TENSORS_MAX).map(tensorOf(fields)),
    groups: groupsOf(fields),
    blocksPerChunk: fields.integer("blocksPerChunk", 1, BLOCKS_PER_CHUNK_MAX),
  };
}

export function directWelcome(fields: Fields): DirectWelcome {
  return {
    instance: fields.text("instance", ENGINE_NAME_LENGTH_MAX),
    arenaBytes: fields.integer("arenaBytes", 1, MAX_SAFE_INTEGER),
  };
}

export function decodeDirectRequest(t: DirectRequestMessage["t"], fields: Fields): DirectRequestMessage {
  const keys = fields.binary("keys");
  if (t === "release") return { t, keys };
  const id = idOf(fields);
  if (t === "hold") return { t, id, keys };
  const groups = unpackUint32(fields.packed("groups", 4));
  const blocks = unpackUint32(fields.packed("blocks", 4));
  if (t === "scatter") return { t, id, keys, groups, blocks };
  return { t, id, ticket: fields.integer("ticket", 0, UINT32_MAX), keys, groups, blocks };
}

export function held(fields: Fields): HeldMessage {
  const offsets = unpackUint64(fields.packed("offsets", 8));
  if (offsets === undefined) throw fields.wrong("offsets", "holds a number that does not fit 53 bits");
  const outcomes = fields.binary("outcomes");
  const codes = fields.binary("codes");
  return { t: "held", id: idOf(fields), outcomes, codes, offsets, us: fields.integer("us", 0, MAX_SAFE_INTEGER) };
}

export function stored(fields: Fields): StoredMessage {
  const ticket = fields.integer("ticket", 0, UINT32_MAX);
  return { t: "stored", ticket, outcomes: fields.binary("outcomes"), codes: fields.binary("codes") };
}

export function idOf(fields: Fields): number {
  return fields.integer("id", 0, REQUEST_ID_MAX);
}

function engineFields(fields: Fields): DirectEngineFields {
  const engine = fields.text("engine", ENGINE_NAME_LENGTH_MAX);
  if (engine === "") throw fields.wrong("engine", "must not be empty");
  return {
    engine,
    parts: fields.integer("parts", 1, PARTS_MAX),
    partBytes: fields.integer("partBytes", 1, PART_BYTES_MAX),
  };
}

function memoryOf(fields: Fields): DirectMemory {
  const kind = fields.text("kind", KIND_LENGTH_MAX);
  switch (kind) {
    case "process":
      return {
        kind,
        memories: tuples(fields, "memories", 2, MEMORIES_MAX).map((each, i) => ({
          address: positive(fields, each[0], `memories[${i}][0]`),
          bytes: positive(fields, each[1], `memories[${i}][1]`),
        })),
      };
    case "cuda":
      return {
        kind,
        uuid: sized(fields, fields.binary("uuid"), "uuid", CUDA_UUID_BYTES),
        memories: tuples(fields, "memories", 3, MEMORIES_MAX).map((each, i) => ({
          handle: sized(fields, each[0], `memories[${i}][0]`, CUDA_HANDLE_BYTES),
          offset: whole(fields, each[1], `memories[${i}][1]`),
          bytes: positive(fields, each[2], `memories[${i}][2]`),
        })),
      };
    case "region":
      return {
        kind,
        memories: tuples(fields, "memories", 1, DESCRIPTORS_MAX).map((each, i) => ({
          bytes: positive(fields, each[0], `memories[${i}][0]`),
        })),
      };
    default:
      throw fields.wrong("kind", "must be process, cuda or region");
  }
}

function tensorOf(fields: Fields): (each: readonly WireValue[], i: number) => DirectTensor {
  return (each, i) => ({
    memory: whole(fields, each[0], `tensors[${i}][0]`, MEMORIES_MAX - 1),
    offset: whole(fields, each[1], `tensors[${i}][1]`),
    strideBytes: positive(fields, each[2], `tensors[${i}][2]`),
    pageBytes: positive(fields, each[3], `tensors[${i}][3]`, PART_BYTES_MAX),
    pages: positive(fields, each[4], `tensors[${i}][4]`, UINT32_MAX),
  });
}

function groupsOf(fields: Fields): (readonly DirectGroupTensor[])[] {
  const groups = fields.list("groups", GROUPS_MAX);
  return groups.map((group, g) => {
    const name = `groups[${g}]`;
    if (!Array.isArray(group) || group.length > TENSORS_MAX) {
      throw fields.wrong(name, `must be a list of at most ${TENSORS_MAX}`);
    }
    return group.map((each: WireValue, i: number) => {
      const [tensor, bytes] = tuple(fields, each, `${name}[${i}]`, 2);
      return {
        tensor: whole(fields, tensor, `${name}[${i}][0]`, TENSORS_MAX - 1),
        bytes: positive(fields, bytes, `${name}[${i}][1]`, PART_BYTES_MAX),
      };
    });
  });
}

function tuples(fields: Fields, name: string, length: number, countMax: number): (readonly WireValue[])[] {
  return fields.list(name, countMax).map((each, i) => tuple(fields, each, `${name}[${i}]`, length));
}

function tuple(fields: Fields, value: WireValue, name: string, length: number): readonly WireValue[] {
  if (Array.isArray(value) && value.length === length) return value as readonly WireValue[];
  throw fields.wrong(name, `must be a list of ${length}`);
}

function positive(fields: Fields, value: WireValue | undefined, name: string, max: number = MAX_SAFE_INTEGER): number {
  return inRange(fields, value, name, 1, max);
}

function whole(fields: Fields, value: WireValue | undefined, name: string, max: number = MAX_SAFE_INTEGER): number {
  return inRange(fields, value, name, 0, max);
}

function inRange(fields: Fields, value: WireValue | undefined, name: string, min: number, max: number): number {
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= min && value <= max) return value;
  throw fields.wrong(name, `must be a whole number from ${min} to ${max}`);
}

function sized(fields: Fields, value: WireValue | undefined, name: string, bytes: number): Uint8Array {
  if (value instanceof Uint8Array && value.length === bytes) return value;
  throw fields.wrong(name, `must be binary of ${bytes} bytes`);
}

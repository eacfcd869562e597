import {
  ERROR_CODES,
  type ErrorCode,
  KEY_BYTES_MAX,
  KEY_BYTES_MIN,
  KvferryError,
  type RemovalReason,
} from "@kvferry/core";
import { decodeDirectRequest, directHello, directWelcome, held, idOf, stored } from "./decode-direct.js";
import type { DirectHelloMessage } from "./direct-messages.js";
import { Fields } from "./fields.js";
import { REQUEST_ID_MAX } from "./limits.js";
import type {
  ClientMessage,
  ErrorMessage,
  HelloFields,
  HelloMessage,
  LoadMessage,
  RegionDescription,
  ServerMessage,
  StoreMessage,
  VllmFsNames,
  WarmingMessage,
  WarmMessage,
  WelcomeMessage,
} from "./messages.js";
import { decodeBody } from "./msgpack.js";
import { unpackUint32 } from "./packed-numbers.js";

const TEXT_LENGTH_MAX = 256;
const PATH_LENGTH_MAX = 4096;
const CONFIG_LENGTH_MAX = 2 ** 19;
const REASONS: readonly string[] = ["evicted", "corrupt", "removed"] satisfies RemovalReason[];

/** Decodes and checks the body of a frame that a client sent. Bytes are views of `body`.
 * @throws KvferryError PROTOCOL; `context.field` names the field that is missing or wrong. */
export function decodeClientMessage(body: Uint8Array): ClientMessage {
  const fields = new Fields(decodeBody(body));
  const type = fields.text("t", TEXT_LENGTH_MAX);
  switch (type) {
    case "lookup":
      return { t: "lookup", id: idOf(fields), keys: fields.binary("keys") };
    case "store":
    case "load":
      return transfer(type, fields);
    case "hold":
    case "release":
    case "gather":
    case "scatter":
      return decodeDirectRequest(type, fields);
    case "cancel":
      return { t: "cancel", id: idOf(fields), target: fields.integer("target", 0, REQUEST_ID_MAX) };
    case "ping":
      return { t: "ping", id: idOf(fields) };
    case "hello":
      return hello(fields);
    case "warm":
      return warm(fields);
    default:
      throw fields.wrong("t", `is '${type.slice(0, 32)}', which is no message that a client sends`);
  }
}

/** Decodes and checks the body of a frame that a server sent. Bytes are views of `body`.
 * @throws KvferryError PROTOCOL; `context.field` names the field that is missing or wrong. */
export function decodeServerMessage(body: Uint8Array): ServerMessage {
  const fields = new Fields(decodeBody(body));
  const type = fields.text("t", TEXT_LENGTH_MAX);
  switch (type) {
    case "states":
      return { t: "states", id: idOf(fields), states: fields.binary("states") };
    case "done":
      return {
        t: "done",
        id: idOf(fields),
        outcomes: fields.binary("outcomes"),
        codes: fields.binary("codes"),
        us: fields.integer("us", 0, Number.MAX_SAFE_INTEGER),
      };
    case "held":
      return held(fields);
    case "stored":
      return stored(fields);
    case "pong":
      return { t: "pong", id: idOf(fields) };
    case "removed":
      return { t: "removed", keys: fields.binary("keys"), reason: reasonOf(fields) };
    case "drain":
      return { t: "drain" };
    case "warming":
      return warming(fields);
    case "error":
      return errorOf(fields);
    case "welcome":
      return welcome(fields);
    default:
      throw fields.wrong("t", `is '${type.slice(0, 32)}', which is no message that a server sends`);
  }
}

function hello(fields: Fields): HelloMessage | DirectHelloMessage {
  if (fields.has("direct")) return { ...helloFields(fields), direct: directHello(fields.map("direct")) };
  const region = fields.single("regions");
  const fragment = fields.single("fragments");
  return {
    ...helloFields(fields),
    regions: [regionOf(region)],
    fragments: [
      {
        region: fragment.integer("region", 0, 0) as 0,
        offset: fragment.integer("offset", 0, Number.MAX_SAFE_INTEGER),
        stride: fragment.integer("stride", 1, Number.MAX_SAFE_INTEGER),
        bytes: fragment.integer("bytes", 1, 2 ** 31),
      },
    ],
    slots: fields.integer("slots", 1, 2 ** 32 - 1),
  };
}

function helloFields(fields: Fields): HelloFields {
  const client = fields.map("client");
  return {
    t: "hello",
    version: fields.integer("version", 1, 2 ** 31),
    client: {
      name: client.text("name", TEXT_LENGTH_MAX),
      version: client.text("version", TEXT_LENGTH_MAX),
      instance: client.text("instance", TEXT_LENGTH_MAX),
    },
    namespace: fields.raw("namespace"),
    keyBytes: fields.integer("keyBytes", KEY_BYTES_MIN, KEY_BYTES_MAX),
    blockBytes: fields.integer("blockBytes", 1, 2 ** 31),
    vllmFs: vllmFsOf(fields),
    events: fields.boolean("events"),
  };
}

function regionOf(region: Fields): RegionDescription {
  const bytes = region.integer("bytes", 1, Number.MAX_SAFE_INTEGER);
  return region.has("path") ? { bytes, path: region.text("path", PATH_LENGTH_MAX) } : { bytes };
}

function vllmFsOf(fields: Fields): VllmFsNames | null {
  if (!fields.has("vllmFs")) return null;
  const names = fields.map("vllmFs");
  return {
    base: names.text("base", TEXT_LENGTH_MAX),
    rank: names.integer("rank", 0, 2 ** 31),
    config: names.text("config", CONFIG_LENGTH_MAX),
  };
}

function transfer(t: "store" | "load", fields: Fields): StoreMessage | LoadMessage {
  const id = idOf(fields);
  return { t, id, keys: fields.binary("keys"), slots: unpackUint32(fields.packed("slots", 4)) };
}

function welcome(fields: Fields): WelcomeMessage {
  const server = fields.map("server");
  return {
    t: "welcome",
    version: fields.integer("version", 1, 2 ** 31),
    server: {
      name: server.text("name", TEXT_LENGTH_MAX),
      version: server.text("version", TEXT_LENGTH_MAX),
      pid: server.integer("pid", 0, 2 ** 31),
    },
    digest: fields.text("digest", TEXT_LENGTH_MAX),
    requestsMax: fields.integer("requestsMax", 1, 2 ** 31),
    batchKeysMax: fields.integer("batchKeysMax", 1, 2 ** 31),
    ...(fields.has("direct") ? { direct: directWelcome(fields.map("direct")) } : {}),
  };
}

function warm(fields: Fields): WarmMessage {
  const bytesOf = (name: "bytes" | "rate"): number | null =>
    fields.has(name) ? fields.integer(name, 1, Number.MAX_SAFE_INTEGER) : null;
  return {
    t: "warm",
    version: fields.integer("version", 1, 2 ** 31),
    bytes: bytesOf("bytes"),
    rate: bytesOf("rate"),
    namespace: fields.text("namespace", TEXT_LENGTH_MAX),
  };
}

function warming(fields: Fields): WarmingMessage {
  return {
    t: "warming",
    done: fields.boolean("done"),
    state: fields.text("state", TEXT_LENGTH_MAX),
    ms: fields.integer("ms", 0, Number.MAX_SAFE_INTEGER),
    counts: integersOf(fields, "counts"),
    tiers: integersOf(fields, "tiers"),
  };
}

function integersOf(fields: Fields, name: string): Record<string, number> {
  const map = fields.map(name);
  const names = Object.keys(fields.raw(name));
  return Object.fromEntries(names.map((each) => [each, map.integer(each, 0, Number.MAX_SAFE_INTEGER)]));
}

function errorOf(fields: Fields): ErrorMessage {
  const code = fields.text("code", TEXT_LENGTH_MAX);
  return {
    t: "error",
    ...(fields.has("id") ? { id: idOf(fields) } : {}),
    // A newer server may know codes that we do not.
    code: Object.hasOwn(ERROR_CODES, code) ? (code as ErrorCode) : "INTERNAL",
    message: fields.text("message", PATH_LENGTH_MAX),
    context: fields.raw("context"),
  };
}

/** The error that an ERROR message tells of. */
export function errorFromMessage(message: ErrorMessage): KvferryError {
  return new KvferryError(message.code, message.message, { operation: "remote", context: { ...message.context } });
}

function reasonOf(fields: Fields): RemovalReason {
  const reason = fields.text("reason", TEXT_LENGTH_MAX);
  if (!REASONS.includes(reason)) throw fields.wrong("reason", `must be one of ${REASONS.join(", ")}`);
  return reason as RemovalReason;
}

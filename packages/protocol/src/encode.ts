import type { KvferryError } from "@kvferry/core";
import { Packr } from "msgpackr";
import { wireDirectHello } from "./encode-direct.js";
import { encodeFrame } from "./frames.js";
import type { ClientMessage, ErrorMessage, ServerMessage } from "./messages.js";
import { packUint32, packUint64 } from "./packed-numbers.js";
import { wireInteger } from "./wire-integer.js";

// Plain maps: record definitions are an extension that other MessagePack readers do not know.
const packr = new Packr({ useRecords: false, variableMapSize: true, encodeUndefinedAsNil: true });

const CONTEXT_ENTRIES_MAX = 16;
const TEXT_LENGTH_MAX = 1024;

/** A message of either side as a frame, ready to be sent.
 * @throws KvferryError PROTOCOL if it is longer than a frame may be. */
export function encodeMessage(message: ClientMessage | ServerMessage): Uint8Array {
  return encodeFrame(packr.pack(wireForm(message)));
}

/** ERROR with what may leave the process: code, message and the plain values of the context, all bounded. */
export function errorMessage(error: KvferryError, id?: number): ErrorMessage {
  const context: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(error.context).slice(0, CONTEXT_ENTRIES_MAX)) {
    if (typeof value === "string") context[key] = value.slice(0, TEXT_LENGTH_MAX);
    else if (typeof value === "boolean" || Number.isSafeInteger(value)) context[key] = value;
  }
  const message = error.message.slice(0, TEXT_LENGTH_MAX);
  return { t: "error", ...(id === undefined ? {} : { id }), code: error.code, message, context };
}

function wireForm(message: ClientMessage | ServerMessage): unknown {
  switch (message.t) {
    case "store":
    case "load":
      return { ...message, slots: packUint32(message.slots) };
    case "gather":
    case "scatter":
      return { ...message, groups: packUint32(message.groups), blocks: packUint32(message.blocks) };
    case "held":
      return { ...message, offsets: packUint64(message.offsets), us: wireInteger(message.us) };
    case "welcome": {
      const { direct } = message;
      return direct === undefined
        ? message
        : { ...message, direct: { ...direct, arenaBytes: wireInteger(direct.arenaBytes) } };
    }
    case "hello":
      if ("direct" in message) return wireDirectHello(message);
      return {
        ...message,
        blockBytes: wireInteger(message.blockBytes),
        regions: message.regions.map((each) => ({ ...each, bytes: wireInteger(each.bytes) })),
        fragments: message.fragments.map((each) => ({
          ...each,
          offset: wireInteger(each.offset),
          stride: wireInteger(each.stride),
          bytes: wireInteger(each.bytes),
        })),
      };
    case "warm":
      return {
        ...message,
        bytes: message.bytes && wireInteger(message.bytes),
        rate: message.rate && wireInteger(message.rate),
      };
    case "warming":
      return {
        ...message,
        ms: wireInteger(message.ms),
        counts: wireIntegers(message.counts),
        tiers: wireIntegers(message.tiers),
      };
    case "done":
      return message.us > 0xffff_ffff ? { ...message, us: wireInteger(message.us) } : message;
    default:
      return message;
  }
}

function wireIntegers(values: Readonly<Record<string, number>>): Record<string, number | bigint> {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, wireInteger(value)]));
}

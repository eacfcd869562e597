import {
  CORRUPT_VERDICT as CORRUPT,
  type ExpectedBlock,
  judgeBlock,
  KvferryError,
  Outcome,
  storedBlockBytes,
  tailBytes,
  type Verdict,
} from "@kvferry/core";
import { combineChecksums, type RunningChecksum } from "./checksum.js";
import { type Part, partsOf } from "./parts.js";
import type { ObjectHead, ObjectSink, RequestOptions, S3Requests } from "./requests.js";

export interface BlockLoad extends ExpectedBlock {
  readonly name: string;
  /** Where the payload goes: blockBytes bytes. */
  readonly slot: Uint8Array;
}

export interface LoadSettings {
  readonly rangeFromBytes: number;
  readonly partBytes: number;
  readonly checksum: RunningChecksum;
}

const MISS: Verdict = Object.freeze({ outcome: Outcome.MISS });

/** Reads a block into its slot as it comes, and judges it. After an abort nothing more is written to the slot.
 * @throws KvferryError, or the signal's reason. */
export async function loadBlock(
  requests: S3Requests,
  load: BlockLoad,
  { rangeFromBytes, partBytes, checksum }: LoadSettings,
  options: RequestOptions,
): Promise<Verdict> {
  const bytes = storedBlockBytes(load.blockBytes);
  const tail = new Uint8Array(tailBytes(load.blockBytes));
  const inRanges = bytes >= rangeFromBytes && bytes > partBytes;
  const parts = inRanges ? partsOf(bytes, partBytes) : [{ from: 0, to: bytes }];
  const sinks = parts.map((part) => new PartSink(load.slot, tail, part, bytes, checksum));
  const reads = sinks.map((sink) =>
    requests.read(load.name, sink, options, inRanges ? [sink.part.from, sink.part.to - 1] : undefined),
  );
  // all of them end before this does: no read may outlive the call
  const found = await Promise.allSettled(reads);
  options.signal?.throwIfAborted();
  for (const each of found) {
    if (each.status === "rejected" && !isBeyondEnd(each.reason)) throw each.reason;
  }
  if (found.some((each) => each.status === "fulfilled" && !each.value)) return MISS;
  const etags = new Set(sinks.filter(({ begun }) => begun).map(({ etag }) => etag));
  if (sinks.every(({ whole }) => whole) && etags.size === 1) {
    const payloadChecksum = sinks.reduce((crc, sink) => combineChecksums(crc, sink.checksum, sink.payloadBytes), 0);
    return judgeBlock(tail, payloadChecksum, load, checksum);
  }
  if (etags.size <= 1) return CORRUPT;
  throw new KvferryError("STALE", "s3: load: the object was replaced while its ranges were read", {
    operation: "load",
  });
}

/** A range that begins after the object's end: the object is too short, which is damage and no failure. */
function isBeyondEnd(thrown: unknown): boolean {
  return thrown instanceof KvferryError && thrown.context.httpStatus === 416;
}

/** Takes a part of a stored block: payload into the slot, padding and footer into the tail. */
class PartSink implements ObjectSink {
  readonly part: Part;
  begun = false;
  etag: string | undefined;
  /** Of what went into the slot. */
  checksum = 0;
  payloadBytes = 0;
  readonly #slot: Uint8Array;
  readonly #tail: Uint8Array;
  readonly #objectBytes: number;
  readonly #running: RunningChecksum;
  #at: number;

  constructor(slot: Uint8Array, tail: Uint8Array, part: Part, objectBytes: number, running: RunningChecksum) {
    this.#slot = slot;
    this.#tail = tail;
    this.part = part;
    this.#objectBytes = objectBytes;
    this.#running = running;
    this.#at = part.from;
  }

  get whole(): boolean {
    return this.#at === this.part.to;
  }

  head({ bytes, etag }: ObjectHead): boolean {
    this.begun = true;
    this.etag = etag;
    return bytes === undefined || bytes === this.#objectBytes;
  }

  chunk(bytes: Uint8Array): boolean {
    if (this.#at + bytes.length > this.part.to) {
      this.#at = -1; // more than it may be: never whole
      return false;
    }
    const ofPayload = Math.max(0, Math.min(bytes.length, this.#slot.length - this.#at));
    if (ofPayload > 0) {
      const payload = ofPayload === bytes.length ? bytes : bytes.subarray(0, ofPayload);
      this.#slot.set(payload, this.#at);
      this.checksum = this.#running(payload, this.checksum);
      this.payloadBytes += ofPayload;
    }
    if (ofPayload < bytes.length) {
      this.#tail.set(bytes.subarray(ofPayload), this.#at + ofPayload - this.#slot.length);
    }
    this.#at += bytes.length;
    return true;
  }
}

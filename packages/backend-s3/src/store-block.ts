import {
  encodeFooter,
  FOOTER_BYTES,
  type FooterFields,
  KvferryError,
  Outcome,
  storedBlockBytes,
  tailBytes,
} from "@kvferry/core";
import { combineChecksums, type RunningChecksum } from "./checksum.js";
import { partsOf, piecesBetween } from "./parts.js";
import type { CreateOutcome, RequestOptions, S3Requests, Upload, UploadedPart } from "./requests.js";

const ABORTS_MAX = 4;
const ABORT_PAUSE_MS = 100;

export interface BlockStore {
  readonly name: string;
  readonly slot: Uint8Array;
  readonly footer: Omit<FooterFields, "payloadBytes" | "payloadChecksum">;
}

export interface StoreSettings {
  readonly multipartFromBytes: number;
  readonly partBytes: number;
  readonly checksum: RunningChecksum;
  /** Whether the storage honours If-None-Match. */
  readonly conditional: boolean;
  /** Runs what cleans up, without anybody waiting for it. */
  inBackground(task: () => Promise<void>): void;
}

/** Stores a block from its slot. After an abort nothing reads the slot.
 * @throws KvferryError, or the signal's reason. */
export async function storeBlock(
  requests: S3Requests,
  store: BlockStore,
  settings: StoreSettings,
  options: RequestOptions,
): Promise<typeof Outcome.STORED | typeof Outcome.PRESENT> {
  const bytes = storedBlockBytes(store.slot.length);
  const write = bytes >= settings.multipartFromBytes && bytes > settings.partBytes ? storeInParts : storeWhole;
  const isThere = async (): Promise<boolean> => (await requests.head(store.name, options))?.bytes === bytes;
  try {
    if ((await write(requests, store, settings, settings.conditional, options)) === "created") return Outcome.STORED;
  } catch (thrown) {
    // a storage that refuses before it has read the body may cut the connection, and its answer with it
    if (!isCut(thrown) || !(await isThere().catch(() => false))) throw thrown;
    return Outcome.PRESENT;
  }
  // there is an object of this name, or there was one: a block that is whole, by its size, stays
  if (await isThere()) return Outcome.PRESENT;
  await write(requests, store, settings, false, options);
  return Outcome.STORED;
}

function isCut(thrown: unknown): boolean {
  return thrown instanceof KvferryError && ["ECONNRESET", "EPIPE"].includes(String(thrown.context.s3Code));
}

async function storeWhole(
  requests: S3Requests,
  { name, slot, footer }: BlockStore,
  { checksum }: StoreSettings,
  condition: boolean,
  options: RequestOptions,
): Promise<CreateOutcome> {
  const payloadChecksum = checksum(slot);
  const tail = makeTail(slot, footer, payloadChecksum, checksum);
  return requests.put(name, [slot, tail], checksum(tail, payloadChecksum), condition, options);
}

async function storeInParts(
  requests: S3Requests,
  { name, slot, footer }: BlockStore,
  { partBytes, checksum, inBackground }: StoreSettings,
  condition: boolean,
  options: RequestOptions,
): Promise<CreateOutcome> {
  const ofSlot = partsOf(slot.length, partBytes).map((part) => ({
    part,
    crc: checksum(slot.subarray(part.from, part.to)),
  }));
  const payloadChecksum = ofSlot.reduce(
    (crc, each) => combineChecksums(crc, each.crc, each.part.to - each.part.from),
    0,
  );
  const tail = makeTail(slot, footer, payloadChecksum, checksum);
  const parts = partsOf(slot.length + tail.length, partBytes).map((part, i) => {
    const seed = ofSlot[i]?.crc ?? 0;
    const fromTail = piecesBetween([tail], { from: part.from - slot.length, to: part.to - slot.length });
    const crc = part.to <= slot.length ? seed : checksum(fromTail[0] as Uint8Array, seed);
    return { pieces: piecesBetween([slot, tail], part), crc };
  });
  const upload = await requests.createUpload(name, options);
  let over = false;
  try {
    const uploaded = await uploadParts(requests, upload, parts, options);
    const whole = checksum(tail, payloadChecksum);
    const outcome = await requests.completeUpload(upload, uploaded, whole, condition, options);
    over = outcome === "created";
    return outcome;
  } finally {
    if (!over) inBackground(() => abandonUpload(requests, upload));
  }
}

/** All parts side by side, as the gate lets them; when one fails the others are cut short, and all have ended when this ends. */
async function uploadParts(
  requests: S3Requests,
  upload: Upload,
  parts: readonly { pieces: readonly Uint8Array[]; crc: number }[],
  { signal, priority }: RequestOptions,
): Promise<UploadedPart[]> {
  const failing = new AbortController();
  const both = signal === undefined ? failing.signal : AbortSignal.any([signal, failing.signal]);
  const options = { signal: both, priority };
  const uploads = parts.map(async ({ pieces, crc }, i) => {
    try {
      return await requests.uploadPart(upload, i + 1, pieces, crc, options);
    } catch (thrown) {
      failing.abort(thrown);
      throw thrown;
    }
  });
  const ended = await Promise.allSettled(uploads);
  signal?.throwIfAborted();
  if (failing.signal.aborted) throw failing.signal.reason;
  return ended.map((each) => (each as PromiseFulfilledResult<UploadedPart>).value);
}

/** Aborts until the storage knows the upload no more: a part that is still arriving can outlive an abort. */
async function abandonUpload(requests: S3Requests, { name, id }: Upload): Promise<void> {
  for (let i = 0; i < ABORTS_MAX; i++) {
    if (!(await requests.abortUpload(name, id, { priority: "store" }))) return;
    await new Promise((resolve) => setTimeout(resolve, ABORT_PAUSE_MS));
  }
}

/** Padding and footer. */
function makeTail(
  slot: Uint8Array,
  footer: BlockStore["footer"],
  payloadChecksum: number,
  checksum: RunningChecksum,
): Uint8Array {
  const tail = new Uint8Array(tailBytes(slot.length));
  const fields = { ...footer, payloadBytes: slot.length, payloadChecksum };
  encodeFooter(tail.subarray(tail.length - FOOTER_BYTES), fields, checksum);
  return tail;
}

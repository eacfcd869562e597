import {
  type Checksum,
  CORRUPT_VERDICT,
  type ExpectedBlock,
  judgeBlock,
  MISS_VERDICT,
  storedBlockBytes,
  tailBytes,
  type Verdict,
} from "@kvferry/core";
import { each } from "./at-once.js";
import { isMissing } from "./errors.js";
import type { Handle, SftpSession } from "./session.js";

/** A block to load, and where to. */
export interface BlockLoad extends ExpectedBlock {
  readonly path: string;
  /** Where the payload goes: blockBytes bytes. */
  readonly slot: Uint8Array;
}

/** How a block is moved. */
export interface MoveSettings {
  readonly requestsMax: number;
  readonly checksum: Checksum;
  readonly signal: AbortSignal | undefined;
}

/** Reads a block into its slot as it comes, and judges it. After an abort nothing more is written to the slot; what is under way ends by itself.
 * @throws SftpStatusError, KvferryError, or the signal's reason. */
export async function loadBlock(session: SftpSession, load: BlockLoad, settings: MoveSettings): Promise<Verdict> {
  let handle: Handle;
  try {
    handle = await session.openToRead(load.path);
  } catch (thrown) {
    if (isMissing(thrown)) return MISS_VERDICT;
    throw thrown;
  }
  try {
    return await loadOpen(session, handle, load, settings);
  } finally {
    void session.close(handle).catch(() => {}); // of a file that was read there is nothing to learn
  }
}

async function loadOpen(
  session: SftpSession,
  handle: Handle,
  load: BlockLoad,
  { requestsMax, checksum, signal }: MoveSettings,
): Promise<Verdict> {
  const { slot, blockBytes } = load;
  const bytes = storedBlockBytes(blockBytes);
  const tail = new Uint8Array(tailBytes(blockBytes));
  const { requestBytes } = session;
  let ended = false;
  await each(Math.ceil(bytes / requestBytes), requestsMax, async (n) => {
    const to = Math.min(bytes, (n + 1) * requestBytes);
    let at = n * requestBytes;
    const sink = (piece: Uint8Array): void => {
      if (!signal?.aborted) place(piece, at, slot, tail);
      at += piece.length;
    };
    while (at < to && !ended) {
      signal?.throwIfAborted();
      if (!(await session.read(handle, at, to - at, sink))) ended = true;
    }
  });
  signal?.throwIfAborted();
  if (!ended) return judgeBlock(tail, checksum(slot), load, checksum);
  // what vLLM's own tier writes has no footer: no block of ours, and no damage
  const { bytes: found } = await session.statOpen(handle);
  return found === blockBytes ? MISS_VERDICT : CORRUPT_VERDICT;
}

/** Puts bytes of a stored block where they belong. */
function place(piece: Uint8Array, at: number, slot: Uint8Array, tail: Uint8Array): void {
  const ofSlot = Math.max(0, Math.min(piece.length, slot.length - at));
  if (ofSlot > 0) slot.set(ofSlot === piece.length ? piece : piece.subarray(0, ofSlot), at);
  if (ofSlot < piece.length) tail.set(piece.subarray(ofSlot), at + ofSlot - slot.length);
}

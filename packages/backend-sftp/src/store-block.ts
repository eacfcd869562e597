import {
  type Checksum,
  encodeFooter,
  FOOTER_BYTES,
  type FooterFields,
  Outcome,
  storedBlockBytes,
  tailBytes,
} from "@kvferry/core";
import { each } from "./at-once.js";
import { isFailure } from "./errors.js";
import type { MoveSettings } from "./load-block.js";
import type { Handle, SftpSession } from "./session.js";

/** A block to store, and where to. */
export interface BlockStore {
  readonly path: string;
  /** A name that nobody else has, on the same file system. */
  readonly temporary: string;
  readonly slot: Uint8Array;
  readonly footer: Omit<FooterFields, "payloadBytes" | "payloadChecksum">;
}

/** Stores a block from its slot. After an abort nothing reads the slot; what was begun is taken away again.
 * @throws SftpStatusError, KvferryError, or the signal's reason. */
export async function storeBlock(
  session: SftpSession,
  store: BlockStore,
  settings: MoveSettings & { readonly fsync: boolean },
  /** Learns of a failure while the unfinished file is still there, and may throw a better explanation. */
  explain: (thrown: unknown) => Promise<void>,
): Promise<typeof Outcome.STORED | typeof Outcome.PRESENT> {
  const { path, temporary, slot, footer } = store;
  const { signal, fsync, checksum } = settings;
  const bytes = storedBlockBytes(slot.length);
  if ((await fileBytes(session, path)) === bytes) return Outcome.PRESENT;
  signal?.throwIfAborted();
  const tail = makeTail(slot, footer, checksum);
  let handle: Handle | undefined;
  try {
    handle = await session.create(temporary);
    await writeStored(session, handle, slot, tail, settings);
    if (fsync) await session.fsync(handle);
    const open = handle;
    handle = undefined;
    await session.close(open); // a remote file system may report a full disk only here
    signal?.throwIfAborted();
    return await publish(session, temporary, path, bytes);
  } catch (thrown) {
    if (handle !== undefined) await session.close(handle).catch(() => {});
    try {
      await explain(thrown);
    } finally {
      await session.removeFile(temporary).catch(() => {}); // the next open sweeps what stays
    }
    throw thrown;
  }
}

/** Bytes of a file, or undefined where there is none. */
export async function fileBytes(session: SftpSession, path: string): Promise<number | undefined> {
  return (await session.stat(path))?.bytes;
}

async function writeStored(
  session: SftpSession,
  handle: Handle,
  slot: Uint8Array,
  tail: Uint8Array,
  { requestsMax, signal }: MoveSettings,
): Promise<void> {
  const bytes = slot.length + tail.length;
  const { requestBytes } = session;
  await each(Math.ceil(bytes / requestBytes), requestsMax, async (n) => {
    signal?.throwIfAborted(); // from here to the end of `write` nothing else runs
    const from = n * requestBytes;
    const to = Math.min(bytes, from + requestBytes);
    await session.write(handle, from, to - from, (target) => {
      if (from < slot.length) target.set(slot.subarray(from, to));
      if (to > slot.length) {
        const begin = Math.max(from, slot.length);
        target.set(tail.subarray(begin - slot.length, to - slot.length), begin - from);
      }
    });
  });
}

async function publish(
  session: SftpSession,
  temporary: string,
  path: string,
  bytes: number,
): Promise<typeof Outcome.STORED | typeof Outcome.PRESENT> {
  try {
    await session.rename(temporary, path);
  } catch (thrown) {
    if (session.has("posix-rename") || !isFailure(thrown)) throw thrown;
    // the plain rename takes no name that is taken: by a block that is whole, or by something that is none
    const found = await fileBytes(session, path);
    if (found === undefined) throw thrown;
    if (found === bytes) {
      await session.removeFile(temporary).catch(() => {}); // the block is there, whatever becomes of this
      return Outcome.PRESENT;
    }
    await session.removeFile(path);
    await session.rename(temporary, path);
  }
  return Outcome.STORED;
}

/** Padding and footer. */
function makeTail(slot: Uint8Array, footer: BlockStore["footer"], checksum: Checksum): Uint8Array {
  const tail = new Uint8Array(tailBytes(slot.length));
  const fields = { ...footer, payloadBytes: slot.length, payloadChecksum: checksum(slot) };
  encodeFooter(tail.subarray(tail.length - FOOTER_BYTES), fields, checksum);
  return tail;
}

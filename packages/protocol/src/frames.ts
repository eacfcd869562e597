import { KvferryError } from "@kvferry/core";
import { FRAME_BYTES_MAX, FRAME_BYTES_MAX_BEFORE_HELLO } from "./limits.js";

const HEADER_BYTES = 4;
const BUFFER_BYTES_MIN = 4096;
const nothing = new Uint8Array(0);

/** Puts a body into a frame.
 * @throws KvferryError PROTOCOL if it is empty or longer than a frame may be. */
export function encodeFrame(body: Uint8Array): Uint8Array {
  if (body.length < 1 || body.length > FRAME_BYTES_MAX) {
    throw new KvferryError("PROTOCOL", `a frame's body has 1 to ${FRAME_BYTES_MAX} bytes, not ${body.length}`, {
      operation: "encode",
    });
  }
  const frame = Buffer.allocUnsafe(HEADER_BYTES + body.length);
  frame.writeUInt32LE(body.length, 0);
  frame.set(body, HEADER_BYTES);
  return frame;
}

/**
 * Cuts a stream of chunks into frame bodies. `push` a chunk, then call `next` until it returns undefined.
 *
 * It holds what was pushed and not yet taken, and at most twice that: memory grows with the bytes that came, never with the length
 * that a header claims. A body within one chunk is a view of it, without a copy.
 */
export class FrameDecoder {
  /** Bytes of a body, at most. Raise it once HELLO has been accepted. */
  frameBytesMax: number;
  #buffer: Uint8Array = nothing;
  #start = 0;
  #end = 0;
  /** Whether `#buffer` is memory of ours, with room behind `#end`, and not the chunk that was pushed. */
  #own = false;

  constructor(frameBytesMax: number = FRAME_BYTES_MAX_BEFORE_HELLO) {
    this.frameBytesMax = frameBytesMax;
  }

  /** Bytes pushed and not yet taken. */
  get bufferedBytes(): number {
    return this.#end - this.#start;
  }

  /** Takes the next bytes of the stream. They must not change afterwards. */
  push(chunk: Uint8Array): void {
    if (this.bufferedBytes === 0) {
      this.#buffer = chunk;
      this.#start = 0;
      this.#end = chunk.length;
      this.#own = false;
      return;
    }
    if (!this.#own || this.#end + chunk.length > this.#buffer.length) this.#makeRoom(chunk.length);
    this.#buffer.set(chunk, this.#end);
    this.#end += chunk.length;
  }

  /** The body of the next whole frame, or undefined until more has come.
   * @throws KvferryError PROTOCOL for a length that is not allowed; the stream cannot be read on. */
  next(): Uint8Array | undefined {
    if (this.bufferedBytes < HEADER_BYTES) return undefined;
    const length = this.#length();
    if (length < 1 || length > this.frameBytesMax) {
      throw new KvferryError("PROTOCOL", `a frame's body has 1 to ${this.frameBytesMax} bytes, not ${length}`, {
        operation: "decode",
        context: { length },
      });
    }
    const end = this.#start + HEADER_BYTES + length;
    if (end > this.#end) return undefined;
    const body = this.#buffer.subarray(this.#start + HEADER_BYTES, end);
    this.#start = end;
    if (this.bufferedBytes === 0) this.clear(); // the body alone keeps the memory
    return body;
  }

  /** Forgets what is buffered. */
  clear(): void {
    this.#buffer = nothing;
    this.#start = 0;
    this.#end = 0;
    this.#own = false;
  }

  #length(): number {
    const bytes = this.#buffer;
    const at = this.#start;
    return (
      (bytes[at] as number) +
      (bytes[at + 1] as number) * 0x100 +
      (bytes[at + 2] as number) * 0x1_00_00 +
      (bytes[at + 3] as number) * 0x1_00_00_00
    );
  }

  /** A new buffer, never the old one with its content moved: bodies handed out are views of the old one. */
  #makeRoom(bytes: number): void {
    const buffered = this.bufferedBytes;
    const buffer = new Uint8Array(Math.max(BUFFER_BYTES_MIN, (buffered + bytes) * 2));
    buffer.set(this.#buffer.subarray(this.#start, this.#end));
    this.#buffer = buffer;
    this.#start = 0;
    this.#end = buffered;
    this.#own = true;
  }
}

import type { FileHandle } from "node:fs/promises";
import type { Checksum } from "../../crc32c.js";

/** What a frame says. */
export const FrameKind = { SNAPSHOT_HEAD: 1, ROWS: 2, SNAPSHOT_END: 3, LOG_HEAD: 4, CHANGES: 5 } as const;
export type FrameKind = (typeof FrameKind)[keyof typeof FrameKind];

/** "KVPX" in the order of the machine's bytes: files of the other kind of machine are not taken for ours. */
const MAGIC = 0x5850564b;
const FORMAT_VERSION = 1;
const HEADER_WORDS = 8;
const FRAME_HEADER_BYTES: number = HEADER_WORDS * 4;
const CHECKED_HEADER_BYTES = FRAME_HEADER_BYTES - 4;
/** Longest body: a chunk of records with the longest keys is under 3 MiB. */
const FRAME_BODY_BYTES_MAX: number = 4 * 1024 * 1024;
const READ_BYTES = 2 * FRAME_BODY_BYTES_MAX;

/**
 * A piece of a file that is whole or not there: eight words (magic; kind and format version; bytes of the body; generation; number; argument;
 * checksum of the body; checksum of these words), then the body, a multiple of four bytes. Numbers rise by one from frame to frame.
 */
export interface Frame {
  readonly kind: FrameKind;
  /** Of the file, so that a frame of another file does not pass for one of this. */
  readonly generation: number;
  readonly number: number;
  /** A number that depends on the kind. */
  readonly argument: number;
  readonly body: Int32Array;
}

/** Fills in the header of a frame whose body lies in `words` from HEADER_WORDS on; its bytes. */
export function finishFrame(
  words: Int32Array,
  bodyWords: number,
  { kind, generation, number, argument }: Omit<Frame, "body">,
  checksum: Checksum,
): Uint8Array {
  const bytes = new Uint8Array(words.buffer, words.byteOffset, FRAME_HEADER_BYTES + bodyWords * 4);
  words[0] = MAGIC;
  words[1] = (FORMAT_VERSION << 16) | kind;
  words[2] = bodyWords * 4;
  words[3] = generation;
  words[4] = number;
  words[5] = argument;
  words[6] = checksum(bytes.subarray(FRAME_HEADER_BYTES));
  words[7] = checksum(bytes.subarray(0, CHECKED_HEADER_BYTES));
  return bytes;
}

/** Room for a frame's header and a body of so many words; the body. */
export function frameBody(words: Int32Array): Int32Array {
  return words.subarray(HEADER_WORDS);
}

export function newFrame(bodyWords: number): Int32Array {
  return new Int32Array(HEADER_WORDS + bodyWords);
}

/** A frame whose body is JSON, filled up with blanks. */
export function jsonFrame(value: object, header: Omit<Frame, "body">, checksum: Checksum): Uint8Array {
  const text = JSON.stringify(value);
  const json = new TextEncoder().encode(text.padEnd(Math.ceil(text.length / 4) * 4)); // ASCII alone: numbers and hex
  const words = newFrame(json.length / 4);
  new Uint8Array(words.buffer, FRAME_HEADER_BYTES).set(json);
  return finishFrame(words, json.length / 4, header, checksum);
}

/** The JSON of a body that `jsonFrame` made. */
export function jsonOf({ body }: Frame): unknown {
  return JSON.parse(new TextDecoder().decode(new Uint8Array(body.buffer, body.byteOffset, body.byteLength)));
}

/** Reads a file's frames one after the other, up to its end or the first that is not whole. */
export class FrameReader {
  readonly #file: FileHandle;
  readonly #checksum: Checksum;
  readonly #buffer: Uint8Array;
  #start = 0;
  #end = 0;
  #goodBytes = 0;

  private constructor(file: FileHandle, bytes: number, checksum: Checksum) {
    this.#file = file;
    this.#buffer = new Uint8Array(Math.min(READ_BYTES, bytes + 1)); // one more than there is: a read of nothing ends the file
    this.#checksum = checksum;
  }

  /** From the file's beginning on. */
  static async of(file: FileHandle, checksum: Checksum): Promise<FrameReader> {
    return new FrameReader(file, (await file.stat()).size, checksum);
  }

  /** Bytes of all whole frames so far. */
  get goodBytes(): number {
    return this.#goodBytes;
  }

  /** The next whole frame; its body is valid until the next call. Undefined where there is none. */
  async next(): Promise<Frame | undefined> {
    if (!(await this.#have(FRAME_HEADER_BYTES))) return undefined;
    const header = new Int32Array(this.#buffer.buffer, this.#start, HEADER_WORDS);
    const [magic, kind, bodyBytes, generation, number, argument, bodyChecksum, headerChecksum] = Array.from(header) as [
      number,
      number,
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    const checked = this.#buffer.subarray(this.#start, this.#start + CHECKED_HEADER_BYTES);
    if (magic !== MAGIC || (this.#checksum(checked) | 0) !== headerChecksum || kind >> 16 !== FORMAT_VERSION) {
      return undefined;
    }
    if (bodyBytes % 4 !== 0 || bodyBytes < 0 || bodyBytes > FRAME_BODY_BYTES_MAX) return undefined;
    if (!(await this.#have(FRAME_HEADER_BYTES + bodyBytes))) return undefined;
    const from = this.#start + FRAME_HEADER_BYTES;
    if ((this.#checksum(this.#buffer.subarray(from, from + bodyBytes)) | 0) !== bodyChecksum) return undefined;
    this.#start = from + bodyBytes;
    this.#goodBytes += FRAME_HEADER_BYTES + bodyBytes;
    const body = new Int32Array(this.#buffer.buffer, from, bodyBytes / 4);
    return { kind: (kind & 0xffff) as FrameKind, generation, number: number >>> 0, argument: argument >>> 0, body };
  }

  /** Whether so many bytes are in the buffer, from its start on. */
  async #have(bytes: number): Promise<boolean> {
    while (this.#end - this.#start < bytes) {
      if (this.#start > 0) {
        this.#buffer.copyWithin(0, this.#start, this.#end);
        this.#end -= this.#start;
        this.#start = 0;
      }
      const { bytesRead } = await this.#file.read(this.#buffer, this.#end, this.#buffer.length - this.#end);
      if (bytesRead === 0) return false;
      this.#end += bytesRead;
    }
    return true;
  }
}

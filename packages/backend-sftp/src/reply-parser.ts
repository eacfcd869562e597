import { MESSAGE_BYTES_MAX, Reply } from "./wire.js";

const SHORT_HEADER = 5; // length, type
const DATA_HEADER = 13; // length, type, id, length of the data

/** What becomes of replies. */
export interface ReplyHandler {
  /** A reply to a READ begins; whoever takes its bytes, or undefined if nobody wants them. */
  dataBegins(id: number, bytes: number): ((bytes: Uint8Array) => void) | undefined;
  dataEnds(id: number): void;
  /** Any other reply: what follows its type. */
  message(type: number, body: Buffer): void;
}

/** Takes the stream of a server's replies apart. Data goes to its reader as it comes, with no copy in between.
 * `push` throws RangeError for what is no SFTP. */
export class ReplyParser {
  readonly #handler: ReplyHandler;
  readonly #header: Buffer = Buffer.alloc(DATA_HEADER);
  #headerBytes = 0;
  /** Bytes of the body that are still to come; a body is data for `#take`, or a message. */
  #left = 0;
  #inData = false;
  #dataId = 0;
  #take: ((bytes: Uint8Array) => void) | undefined;
  #message: Buffer | undefined;

  constructor(handler: ReplyHandler) {
    this.#handler = handler;
  }

  push(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; ) {
      if (this.#inData) at += this.#pushData(bytes, at);
      else if (this.#message !== undefined) at += this.#pushMessage(this.#message, bytes, at);
      else at = this.#pushHeader(bytes, at);
    }
  }

  #pushData(bytes: Buffer, at: number): number {
    const count = Math.min(this.#left, bytes.length - at);
    this.#take?.(bytes.subarray(at, at + count));
    this.#left -= count;
    if (this.#left === 0) this.#endData();
    return count;
  }

  #endData(): void {
    this.#inData = false;
    this.#take = undefined;
    this.#handler.dataEnds(this.#dataId);
  }

  #pushMessage(message: Buffer, bytes: Buffer, at: number): number {
    const count = Math.min(this.#left, bytes.length - at);
    bytes.copy(message, message.length - this.#left, at, at + count);
    this.#left -= count;
    if (this.#left === 0) {
      this.#message = undefined;
      this.#handler.message(this.#header[4] as number, message);
    }
    return count;
  }

  #pushHeader(bytes: Buffer, from: number): number {
    let at = from;
    const isData = (): boolean => this.#headerBytes >= SHORT_HEADER && this.#header[4] === Reply.DATA;
    while (at < bytes.length && this.#headerBytes < (isData() ? DATA_HEADER : SHORT_HEADER)) {
      this.#header[this.#headerBytes++] = bytes[at++] as number;
    }
    if (this.#headerBytes < (isData() ? DATA_HEADER : SHORT_HEADER)) return at;
    this.#headerBytes = 0;
    const length = this.#header.readUInt32BE(0);
    if (length < 1 || length > MESSAGE_BYTES_MAX) throw new RangeError(`a message of ${length} bytes`);
    if (this.#header[4] === Reply.DATA) this.#beginData(length);
    else {
      this.#left = length - 1;
      if (this.#left === 0) throw new RangeError("a message without a body");
      this.#message = Buffer.allocUnsafe(this.#left);
    }
    return at;
  }

  #beginData(length: number): void {
    this.#dataId = this.#header.readUInt32BE(5);
    this.#left = this.#header.readUInt32BE(9);
    if (this.#left !== length - 9) throw new RangeError("a reply whose lengths do not agree");
    this.#take = this.#handler.dataBegins(this.#dataId, this.#left);
    this.#inData = true;
    if (this.#left === 0) this.#endData();
  }
}

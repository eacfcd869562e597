import type { Duplex } from "node:stream";
import { KvferryError, PriorityGate } from "@kvferry/core";
import { SftpStatusError } from "./errors.js";
import type { PacketPool } from "./packets.js";
import { ReplyParser } from "./reply-parser.js";
import {
  type Attributes,
  type Field,
  Fields,
  fieldsBytes,
  modeFields,
  OpenFlag,
  REQUEST_BYTES_SURE,
  Reply,
  Request,
  SFTP_VERSION,
  Status,
  writeRequest,
} from "./wire.js";

/** A file or folder that the server has open. */
export type Handle = Uint8Array & { readonly brand?: "handle" };
/** Takes the bytes of a read as they come. */
export type Sink = (bytes: Uint8Array) => void;

/** A name in a folder. */
export interface FolderEntry extends Attributes {
  readonly name: string;
}

/** What a file system has. */
export interface FileSystemFacts {
  readonly availableBytes: number;
  readonly availableFiles: number;
  readonly readOnly: boolean;
}

interface Pending {
  readonly resolve: (reply: { readonly type: number; readonly fields: Fields }) => void;
  readonly reject: (error: Error) => void;
  readonly sink?: Sink | undefined;
  readonly bytesMax?: number;
}

const PACKET_HEADER = 9;
const FILE_MODE = 0o600;
const FOLDER_MODE = 0o700;
const READ_ONLY_FLAG = 1;
/** Requests about single keys (lookups, removals) on their way at once over one session: where a host hangs, calls that were given up pile up no more. */
const KEY_REQUESTS_MAX = 256;

/** One SFTP session over a channel. Any number of requests may be under way; a method's promise is one request and its reply.
 * Every method rejects with SftpStatusError for what the server refuses, and with a KvferryError when the session has ended. */
export class SftpSession {
  readonly #channel: Duplex;
  readonly #packets: PacketPool;
  readonly #parser: ReplyParser;
  readonly #pending: Map<number, Pending> = new Map();
  readonly #batch: () => void;
  readonly #broken: (error: KvferryError) => void;
  #ready: ((fields: Fields) => void) | undefined;
  #nextId = 0;
  #ended: KvferryError | undefined;
  /** Requests without a body that go together at the end of this turn: a packet of SSH costs more than what is in them. */
  #short: Buffer[] = [];
  #extensions: ReadonlySet<string> = new Set();
  /** Bytes that one READ or WRITE may move. */
  requestBytes: number = REQUEST_BYTES_SURE;
  /** Files that are being moved; who chooses a session goes by it. */
  files = 0;
  /** Requests about single keys go through it. */
  readonly keyGate: PriorityGate = new PriorityGate(KEY_REQUESTS_MAX);

  /** `batch` is called before bytes are written, so that those of one turn can go in one system call; `broken` when the server has sent what is no SFTP:
   * the session has ended then, and its connection is of no use. */
  constructor(channel: Duplex, packets: PacketPool, batch: () => void, broken: (error: KvferryError) => void) {
    this.#channel = channel;
    this.#packets = packets;
    this.#batch = batch;
    this.#broken = broken;
    this.#parser = new ReplyParser({
      dataBegins: (id, bytes) => this.#dataBegins(id, bytes),
      dataEnds: (id) => this.#settle(id, Reply.DATA, new Fields(Buffer.alloc(0))),
      message: (type, body) => this.#message(type, body),
    });
    channel.on("data", (bytes: Buffer) => this.#receive(bytes));
  }

  /** Why the session has ended, or undefined while it lives. */
  get ended(): KvferryError | undefined {
    return this.#ended;
  }

  /** Requests that were sent and are not answered. */
  get requests(): number {
    return this.#pending.size;
  }

  has(extension: "posix-rename" | "fsync" | "statvfs"): boolean {
    return this.#extensions.has(`${extension}@openssh.com`);
  }

  /** Agrees on the version and on how much one request may move. */
  async begin(requestBytesMax: number): Promise<void> {
    const version = new Promise<Fields>((resolve, reject) => {
      this.#ready = resolve;
      this.#pending.set(-1, { resolve: () => {}, reject });
    });
    this.#batch();
    this.#channel.write(Buffer.from([0, 0, 0, 5, Request.INIT, 0, 0, 0, SFTP_VERSION]));
    const fields = await version;
    this.#pending.delete(-1);
    const offered = fields.u32();
    if (offered !== SFTP_VERSION) {
      throw new KvferryError(
        "UNSUPPORTED",
        `sftp: the server speaks version ${offered} of SFTP, and not ${SFTP_VERSION}`,
      );
    }
    const extensions = new Set<string>();
    while (fields.rest > 0) {
      extensions.add(fields.text());
      fields.text();
    }
    this.#extensions = extensions;
    this.requestBytes = Math.min(requestBytesMax, REQUEST_BYTES_SURE);
    if (!extensions.has("limits@openssh.com")) return;
    const { fields: limits } = await this.#request(Request.EXTENDED, ["limits@openssh.com"], Reply.EXTENDED);
    limits.u64(); // of a whole message
    const [read, write] = [limits.u64(), limits.u64()];
    if (read > 0 && write > 0) this.requestBytes = Math.min(requestBytesMax, read, write);
  }

  /** Every request that is under way, and every further one, fails with this error. */
  end(error: KvferryError): void {
    if (this.#ended !== undefined) return;
    this.#ended = error;
    const waiting = [...this.#pending.values()];
    this.#pending.clear();
    for (const { reject } of waiting) reject(error);
  }

  openToRead(path: string): Promise<Handle> {
    return this.#handle(Request.OPEN, [path, { u32: OpenFlag.READ }, { u32: 0 }]);
  }

  /** Makes a file that was not there. */
  create(path: string): Promise<Handle> {
    const flags = OpenFlag.WRITE | OpenFlag.CREATE | OpenFlag.EXCLUSIVE;
    return this.#handle(Request.OPEN, [path, { u32: flags }, ...modeFields(FILE_MODE)]);
  }

  openFolder(path: string): Promise<Handle> {
    return this.#handle(Request.OPENDIR, [path]);
  }

  close(handle: Handle): Promise<void> {
    return this.#done(Request.CLOSE, [handle]);
  }

  /** Whether there was anything to read; at the end of the file there is not. The server may give less than was asked for: `sink` knows. */
  async read(handle: Handle, position: number, bytes: number, sink: Sink): Promise<boolean> {
    try {
      await this.#request(Request.READ, [handle, { u64: position }, { u32: bytes }], Reply.DATA, sink, bytes);
      return true;
    } catch (thrown) {
      if (thrown instanceof SftpStatusError && thrown.status === Status.EOF) return false;
      throw thrown;
    }
  }

  /** Writes what `fill` puts into the buffer that it gets, at once and before this returns. */
  write(handle: Handle, position: number, bytes: number, fill: (target: Uint8Array) => void): Promise<void> {
    const fields: Field[] = [handle, { u64: position }, { u32: bytes }];
    const body = (packet: Buffer, at: number): void => fill(packet.subarray(at, at + bytes));
    return this.#send(Request.WRITE, fields, { body, bytes }).then(checkDone);
  }

  /** Undefined where there is nothing: that is most often so, and no reason to make an error. */
  async stat(path: string): Promise<Attributes | undefined> {
    const { type, fields } = await this.#send(Request.STAT, [path]);
    if (type === Reply.ATTRS) return fields.attributes();
    const status = statusOf(type, fields);
    if (status.code === Status.NO_SUCH_FILE) return undefined;
    throw new SftpStatusError(status.code, status.words);
  }

  statOpen(handle: Handle): Promise<Attributes> {
    return this.#request(Request.FSTAT, [handle], Reply.ATTRS).then(({ fields }) => fields.attributes());
  }

  makeFolder(path: string): Promise<void> {
    return this.#done(Request.MKDIR, [path, ...modeFields(FOLDER_MODE)]);
  }

  removeFile(path: string): Promise<void> {
    return this.#done(Request.REMOVE, [path]);
  }

  removeFolder(path: string): Promise<void> {
    return this.#done(Request.RMDIR, [path]);
  }

  /** Puts a file in the place of another. Without posix-rename@openssh.com a server refuses where there is one. */
  rename(from: string, to: string): Promise<void> {
    if (this.has("posix-rename")) return this.#done(Request.EXTENDED, ["posix-rename@openssh.com", from, to]);
    return this.#done(Request.RENAME, [from, to]);
  }

  fsync(handle: Handle): Promise<void> {
    return this.#done(Request.EXTENDED, ["fsync@openssh.com", handle]);
  }

  /** The next names in a folder, without "." and ".."; undefined at its end. */
  async list(folder: Handle): Promise<FolderEntry[] | undefined> {
    try {
      const { fields } = await this.#request(Request.READDIR, [folder], Reply.NAME);
      const entries: FolderEntry[] = [];
      for (let left = fields.u32(); left > 0; left--) {
        const name = fields.text();
        fields.bytes(); // a line for people
        const attributes = fields.attributes();
        if (name !== "." && name !== "..") entries.push({ name, ...attributes });
      }
      return entries;
    } catch (thrown) {
      if (thrown instanceof SftpStatusError && thrown.status === Status.EOF) return undefined;
      throw thrown;
    }
  }

  /** Of the file system that holds a path; needs statvfs@openssh.com. */
  async fileSystem(path: string): Promise<FileSystemFacts> {
    const { fields } = await this.#request(Request.EXTENDED, ["statvfs@openssh.com", path], Reply.EXTENDED);
    fields.u64(); // preferred size of a request
    const unit = fields.u64();
    fields.u64(); // all units
    fields.u64(); // free ones
    const availableBytes = fields.u64() * unit;
    const files = fields.u64();
    fields.u64(); // free files
    const availableFiles = fields.u64();
    fields.u64(); // id
    const flags = fields.u64();
    // file systems that have no bound on files say that they have none at all
    const bounded = files > 0 ? availableFiles : Number.POSITIVE_INFINITY;
    return { availableBytes, availableFiles: bounded, readOnly: (flags & READ_ONLY_FLAG) !== 0 };
  }

  #handle(type: Request, fields: readonly Field[]): Promise<Handle> {
    return this.#request(type, fields, Reply.HANDLE).then(({ fields: reply }) => Uint8Array.from(reply.bytes()));
  }

  #done(type: Request, fields: readonly Field[]): Promise<void> {
    return this.#send(type, fields).then(checkDone);
  }

  async #request(
    type: Request,
    fields: readonly Field[],
    expected: number,
    sink?: Sink,
    bytesMax?: number,
  ): Promise<{ readonly fields: Fields }> {
    const reply = await this.#send(type, fields, { sink, bytesMax });
    if (reply.type === expected) return reply;
    const { code, words } = statusOf(reply.type, reply.fields);
    throw new SftpStatusError(code, words);
  }

  #send(
    type: Request,
    fields: readonly Field[],
    more: {
      readonly sink?: Sink | undefined;
      readonly bytesMax?: number | undefined;
      readonly body?: (packet: Buffer, at: number) => void;
      readonly bytes?: number;
    } = {},
  ): Promise<{ readonly type: number; readonly fields: Fields }> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    const { sink, bytesMax = 0, body, bytes = 0 } = more;
    const id = this.#nextId;
    this.#nextId = (id + 1) % 2 ** 32;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject, sink, bytesMax });
      const packetBytes = PACKET_HEADER + fieldsBytes(fields) + bytes;
      const packet = this.#packets.take(packetBytes);
      const end = writeRequest(packet, type, id, fields, bytes);
      if (body === undefined) {
        this.#sendSoon(packet.subarray(0, packetBytes));
        return;
      }
      body(packet, end);
      this.#sendShort();
      this.#batch();
      // ssh2 has encrypted the bytes into a buffer of its own when it calls back
      this.#channel.write(packet.subarray(0, packetBytes), () => this.#packets.give(packet));
    });
  }

  #sendSoon(packet: Buffer): void {
    this.#short.push(packet);
    if (this.#short.length === 1) process.nextTick(() => this.#sendShort());
  }

  #sendShort(): void {
    const packets = this.#short;
    if (packets.length === 0 || this.#ended !== undefined) return;
    this.#short = [];
    this.#batch();
    this.#channel.write(Buffer.concat(packets));
  }

  #receive(bytes: Buffer): void {
    if (this.#ended !== undefined) return; // readers were told so, and their slots may have other owners
    try {
      this.#parser.push(bytes);
    } catch (err) {
      const error = new KvferryError(
        "PROTOCOL",
        `sftp: the server has sent what is no SFTP: ${(err as Error).message}`,
      );
      this.end(error);
      this.#broken(error);
    }
  }

  #dataBegins(id: number, bytes: number): Sink | undefined {
    const pending = this.#pending.get(id);
    if (pending === undefined) throw new RangeError("data that nobody has asked for");
    if (bytes > (pending.bytesMax ?? 0) || bytes === 0)
      throw new RangeError(`${bytes} bytes for a read of ${pending.bytesMax}`);
    return pending.sink;
  }

  #message(type: number, body: Buffer): void {
    const fields = new Fields(body);
    if (type === Reply.VERSION) {
      if (this.#ready === undefined) throw new RangeError("a second greeting");
      this.#ready(fields);
      this.#ready = undefined;
    } else this.#settle(fields.u32(), type, fields);
  }

  #settle(id: number, type: number, fields: Fields): void {
    const pending = this.#pending.get(id);
    if (pending === undefined) throw new RangeError("a reply to nothing");
    this.#pending.delete(id);
    pending.resolve({ type, fields });
  }
}

/** @throws SftpStatusError for a status that is not OK. */
function checkDone({ type, fields }: { readonly type: number; readonly fields: Fields }): void {
  const { code, words } = statusOf(type, fields);
  if (code !== Status.OK) throw new SftpStatusError(code, words);
}

function statusOf(type: number, fields: Fields): { readonly code: number; readonly words: string } {
  if (type !== Reply.STATUS) {
    throw new KvferryError("PROTOCOL", `sftp: the server has answered with a message of type ${type}`);
  }
  const code = fields.u32();
  return { code, words: code === Status.OK || fields.rest < 4 ? "" : fields.text() };
}

/** SFTP version 3 (draft-ietf-secsh-filexfer-02), as OpenSSH speaks it: numbers, and how requests are written. */
export const Request = {
  INIT: 1,
  OPEN: 3,
  CLOSE: 4,
  READ: 5,
  WRITE: 6,
  FSTAT: 8,
  OPENDIR: 11,
  READDIR: 12,
  REMOVE: 13,
  MKDIR: 14,
  RMDIR: 15,
  STAT: 17,
  RENAME: 18,
  EXTENDED: 200,
} as const;
export type Request = (typeof Request)[keyof typeof Request];

export const Reply = { VERSION: 2, STATUS: 101, HANDLE: 102, DATA: 103, NAME: 104, ATTRS: 105, EXTENDED: 201 } as const;

export const Status = { OK: 0, EOF: 1, NO_SUCH_FILE: 2, PERMISSION_DENIED: 3, FAILURE: 4, BAD_MESSAGE: 5 } as const;
export const OP_UNSUPPORTED = 8;

export const OpenFlag = { READ: 1, WRITE: 2, CREATE: 8, EXCLUSIVE: 32 } as const;

export const SFTP_VERSION = 3;
/** The longest message that OpenSSH sends or takes. */
export const MESSAGE_BYTES_MAX: number = 256 * 1024;
/** What every server must be able to move with one request. */
export const REQUEST_BYTES_SURE = 32_768;

const ATTRIBUTE = { SIZE: 1, OWNER: 2, PERMISSIONS: 4, TIMES: 8, EXTENDED: 0x8000_0000 } as const;

/** What a server says about a file, as far as it is read here. */
export interface Attributes {
  readonly bytes: number | undefined;
  readonly isFolder: boolean | undefined;
  /** Whole seconds, in ms. */
  readonly usedAtMs: number | undefined;
  readonly changedAtMs: number | undefined;
}

/** Fields of a request after its id. */
export type Field = string | Uint8Array | { readonly u32: number } | { readonly u64: number };

/** Bytes of the fields as they stand in a request: texts and byte strings have their length before them. */
export function fieldsBytes(fields: readonly Field[]): number {
  let bytes = 0;
  for (const field of fields) {
    if (typeof field === "string") bytes += 4 + Buffer.byteLength(field);
    else if (field instanceof Uint8Array) bytes += 4 + field.length;
    else bytes += "u32" in field ? 4 : 8;
  }
  return bytes;
}

/** Writes length, type, id and fields to the start of `target`; where it ends. `more` bytes that follow count in the length. */
export function writeRequest(target: Buffer, type: Request, id: number, fields: readonly Field[], more = 0): number {
  let at = 4;
  at = target.writeUInt8(type, at);
  at = target.writeUInt32BE(id, at);
  for (const field of fields) {
    if (typeof field === "string") {
      const bytes = target.write(field, at + 4, "utf8");
      target.writeUInt32BE(bytes, at);
      at += 4 + bytes;
    } else if (field instanceof Uint8Array) {
      at = target.writeUInt32BE(field.length, at);
      target.set(field, at);
      at += field.length;
    } else if ("u32" in field) at = target.writeUInt32BE(field.u32, at);
    else at = target.writeBigUInt64BE(BigInt(field.u64), at);
  }
  target.writeUInt32BE(at - 4 + more, 0);
  return at;
}

/** Reads the fields of a reply one after the other.
 * @throws RangeError where the reply ends too early. */
export class Fields {
  readonly #bytes: Buffer;
  #at: number;

  constructor(bytes: Buffer, at = 0) {
    this.#bytes = bytes;
    this.#at = at;
  }

  get rest(): number {
    return this.#bytes.length - this.#at;
  }

  u32(): number {
    const value = this.#bytes.readUInt32BE(this.#at);
    this.#at += 4;
    return value;
  }

  u64(): number {
    const value = this.#bytes.readBigUInt64BE(this.#at);
    this.#at += 8;
    return Number(value);
  }

  bytes(): Buffer {
    const length = this.u32();
    if (length > this.rest) throw new RangeError("a text that is longer than its message");
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }

  text(): string {
    return this.bytes().toString("utf8");
  }

  attributes(): Attributes {
    const flags = this.u32();
    const bytes = flags & ATTRIBUTE.SIZE ? this.u64() : undefined;
    if (flags & ATTRIBUTE.OWNER) this.u64(); // uid and gid
    const isFolder = flags & ATTRIBUTE.PERMISSIONS ? (this.u32() & 0o170000) === 0o040000 : undefined;
    const usedAtMs = flags & ATTRIBUTE.TIMES ? this.u32() * 1000 : undefined;
    const changedAtMs = flags & ATTRIBUTE.TIMES ? this.u32() * 1000 : undefined;
    if ((flags & ATTRIBUTE.EXTENDED) !== 0) {
      for (let left = this.u32(); left > 0; left--) {
        this.bytes();
        this.bytes();
      }
    }
    return { bytes, isFolder, usedAtMs, changedAtMs };
  }
}

/** Fields that give a new file or folder its mode. */
export function modeFields(mode: number): readonly Field[] {
  return [{ u32: ATTRIBUTE.PERMISSIONS }, { u32: mode }];
}

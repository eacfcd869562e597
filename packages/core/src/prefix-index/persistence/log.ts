import { type FileHandle, open } from "node:fs/promises";
import { KvferryError, toKvferryError } from "../../errors.js";
import { FILE_MODE, logPath, syncFolder, writeAll } from "./files.js";

/** Bytes that wait to be written, at most; a log that cannot keep up fails. */
const QUEUE_BYTES_MAX = 64 * 1024 * 1024;

/** One log file. Writes go one after the other; after the first that fails nothing more is written, so that it has no gap. */
export class Log {
  readonly generation: number;
  readonly #folder: string;
  readonly #bytesMax: number;
  #file: FileHandle | undefined;
  #bytes: number;
  #writtenBytes: number;
  #queue: Promise<void> = Promise.resolve();
  #error: KvferryError | undefined;

  /** @param bytesMax a log that grows longer fails. */
  constructor(folder: string, generation: number, bytesMax: number, bytes: number = 0) {
    this.generation = generation;
    this.#folder = folder;
    this.#bytesMax = bytesMax;
    this.#bytes = bytes;
    this.#writtenBytes = bytes;
  }

  /** Bytes of the file, those that wait included. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Why it fails. */
  get error(): KvferryError | undefined {
    return this.#error;
  }

  /** Makes the file, after `before` has come to its end. */
  create(before: Promise<void>): void {
    this.#enqueue(async () => {
      await before;
      this.#file = await open(logPath(this.#folder, this.generation), "wx", FILE_MODE);
    });
  }

  /** Goes on with a file, after what of it is whole. */
  continue(): void {
    this.#enqueue(async () => {
      this.#file = await open(logPath(this.#folder, this.generation), "r+");
      await this.#file.truncate(this.#bytes);
      await this.#file.sync();
    });
  }

  append(bytes: Uint8Array): void {
    if (this.#error !== undefined) return;
    if (this.#bytes - this.#writtenBytes + bytes.length > QUEUE_BYTES_MAX) {
      this.fail(this.#trouble("BUSY", "cannot keep up"));
    } else if (this.#bytes + bytes.length > this.#bytesMax) {
      this.fail(this.#trouble("NO_SPACE", "has become too long"));
    }
    this.#bytes += bytes.length;
    this.#enqueue(async () => {
      await writeAll(this.#file as FileHandle, bytes, this.#writtenBytes);
      this.#writtenBytes += bytes.length;
    });
  }

  /** Makes what was appended so far last. */
  sync(): void {
    this.#enqueue(async () => {
      await this.#file?.sync();
      await syncFolder(this.#folder);
    });
  }

  /** When all is done that was asked for so far, failed or not. */
  settled(): Promise<void> {
    return this.#queue;
  }

  /** Ends it, and makes it last. */
  async close(): Promise<void> {
    this.sync();
    await this.#queue;
    await this.#file?.close().catch((cause) => this.fail(cause));
    this.#file = undefined;
  }

  fail(cause: unknown): void {
    this.#error ??= toKvferryError(cause, "prefixIndex", { folder: this.#folder });
  }

  #trouble(code: "BUSY" | "NO_SPACE", what: string): KvferryError {
    return new KvferryError(code, `the log of the prefix index in ${this.#folder} ${what}`, {
      operation: "prefixIndex",
    });
  }

  #enqueue(task: () => Promise<void>): void {
    this.#queue = this.#queue.then(async () => {
      if (this.#error !== undefined) return;
      try {
        await task();
      } catch (cause) {
        this.fail(cause);
      }
    });
  }
}

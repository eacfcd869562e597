import { setMaxListeners } from "node:events";
import type { Readable } from "node:stream";
import {
  AbortMultipartUploadCommand,
  type CompletedPart,
  CompleteMultipartUploadCommand,
  CopyObjectCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
  UploadPartCommand,
} from "@aws-sdk/client-s3";
import { type Priority, PriorityGate, silentLogger } from "@kvferry/core";
import { checksumHeader } from "./checksum.js";
import type { ResolvedS3Config } from "./config.js";
import { httpStatus, s3Code, toS3Error } from "./errors.js";
import { PiecesBody, Transport } from "./transport.js";

/** How urgent a request is, and when to let it be. */
export interface RequestOptions {
  readonly signal?: AbortSignal | undefined;
  readonly priority: Priority;
  /** It is its turn: from now on the storage may hear of it. */
  readonly onSent?: (() => void) | undefined;
}

/** An object as a HEAD or the head of a GET shows it. */
export interface ObjectHead {
  /** Of the whole object, also where a range of it was asked for; undefined where the storage does not say. */
  readonly bytes: number | undefined;
  readonly etag: string | undefined;
}

/** Receives an object. The rest of it is let go where `head` or `chunk` answers false. */
export interface ObjectSink {
  head(head: ObjectHead): boolean;
  /** Must take the bytes at once: their memory is used again. */
  chunk(bytes: Uint8Array): boolean;
}

export interface ListedObject {
  readonly name: string;
  readonly bytes: number;
  readonly modifiedAtMs: number;
}

export interface ListPage {
  readonly objects: readonly ListedObject[];
  /** Where the next page goes on; undefined after the last one. */
  readonly next: string | undefined;
}

export interface ListOptions {
  readonly prefix: string;
  readonly token?: string | undefined;
  readonly startAfter?: string | undefined;
  readonly objectsMax?: number;
}

/** An upload that has been begun. */
export interface Upload {
  readonly name: string;
  readonly id: string;
  /** Whether the storage takes a checksum of the whole object at the end. */
  readonly wholeChecksum: boolean;
}

export interface UploadedPart {
  readonly etag: string | undefined;
  readonly checksum: number;
}

/** What a conditional create came to: "taken" says that there is an object, or that one is being written. */
export type CreateOutcome = "created" | "taken";

/** Steps of the SDK that cost time in every request: copies of it for a log that we do not write, marks for Lambda, redirects that we do not follow. */
const NOT_NEEDED = ["loggerMiddleware", "recursionDetectionMiddleware", "regionRedirectMiddleware"];

/**
 * S3 as this backend uses it: each method one request, in its turn. Everything that fails rejects with a KvferryError without secrets;
 * that an object is not there is a value. The SDK's own retries are off: layers above decide about retries.
 */
export class S3Requests {
  readonly gate: PriorityGate;
  readonly #client: S3Client;
  readonly #transport: Transport;
  readonly #bucket: string;
  readonly #encryption: Record<string, string>;

  constructor(config: ResolvedS3Config) {
    const { bucket, region, endpoint, forcePathStyle, socketsMax, requestTimeoutMs, sse } = config;
    this.gate = new PriorityGate(socketsMax);
    this.#bucket = bucket;
    this.#transport = new Transport({ socketsMax, idleMsMax: requestTimeoutMs });
    this.#encryption = sse === undefined ? {} : { ServerSideEncryption: sse.type };
    if (sse?.kmsKeyId !== undefined) this.#encryption.SSEKMSKeyId = sse.kmsKeyId;
    this.#client = new S3Client({
      ...(region !== undefined && { region }),
      ...(endpoint !== undefined && { endpoint }),
      forcePathStyle,
      maxAttempts: 1,
      logger: silentLogger, // else it warns, on the console, of bodies that it cannot repeat
      requestHandler: this.#transport as never, // an interface of a package that is not ours to import
      requestChecksumCalculation: "WHEN_REQUIRED",
      responseChecksumValidation: "WHEN_REQUIRED",
      expectContinueHeader: false,
    });
    for (const name of NOT_NEEDED) this.#client.middlewareStack.remove(name);
    this.#client.middlewareStack.add(
      (next) => (args) => {
        // Signing a payload takes a SHA-256 pass over it. The signed header x-amz-checksum-crc32c protects it against damage
        // on the way, and TLS against whoever means harm.
        const { headers, body } = args.request as { headers: Record<string, string>; body?: unknown };
        if (body instanceof PiecesBody) headers["x-amz-content-sha256"] = "UNSIGNED-PAYLOAD";
        return next(args);
      },
      { step: "build", name: "unsignedPayload" },
    );
  }

  /** Facts for errors and log lines. */
  get place(): { readonly bucket: string } {
    return { bucket: this.#bucket };
  }

  async head(name: string, options: RequestOptions): Promise<ObjectHead | undefined> {
    return this.#unlessMissing("head", name, options, async () => {
      const { ContentLength, ETag } = await this.#client.send(
        new HeadObjectCommand({ Bucket: this.#bucket, Key: name }),
        sendOptions(options),
      );
      return { bytes: ContentLength, etag: ETag };
    });
  }

  /** Reads an object, or a range of it (both ends included), into the sink. False if there is no such object. Ends only when nothing
   * more comes. */
  async read(
    name: string,
    sink: ObjectSink,
    options: RequestOptions,
    range?: [from: number, to: number],
  ): Promise<boolean> {
    const found = await this.#unlessMissing("load", name, options, async () => {
      const Range = range === undefined ? {} : { Range: `bytes=${range[0]}-${range[1]}` };
      const { Body, ContentLength, ContentRange, ETag } = await this.#client.send(
        new GetObjectCommand({ Bucket: this.#bucket, Key: name, ...Range }),
        sendOptions(options),
      );
      const total = range === undefined ? ContentLength : Number(ContentRange?.split("/")[1]);
      await drain(Body as Readable, options.signal, { bytes: total, etag: ETag }, sink);
      return true;
    });
    return found ?? false;
  }

  /** With `condition`, only if there is no object of this name yet. */
  async put(
    name: string,
    pieces: readonly Uint8Array[],
    checksum: number,
    condition: boolean,
    options: RequestOptions,
    operation = "store",
  ): Promise<CreateOutcome> {
    const body = new PiecesBody(pieces);
    return this.#unlessTaken(operation, name, options, () =>
      this.#client.send(
        new PutObjectCommand({
          ...{ Bucket: this.#bucket, Key: name, Body: body, ContentLength: body.byteLength },
          ...{ ChecksumCRC32C: checksumHeader(checksum), ...this.#encryption },
          ...(condition && { IfNoneMatch: "*" }),
        }),
        sendOptions(options),
      ),
    );
  }

  async createUpload(name: string, options: RequestOptions): Promise<Upload> {
    return this.#run("store", name, options, async () => {
      const { UploadId, ChecksumType } = await this.#client.send(
        new CreateMultipartUploadCommand({
          ...{ Bucket: this.#bucket, Key: name, ChecksumAlgorithm: "CRC32C", ChecksumType: "FULL_OBJECT" },
          ...this.#encryption,
        }),
        sendOptions(options),
      );
      return { name, id: UploadId ?? "", wholeChecksum: ChecksumType === "FULL_OBJECT" };
    });
  }

  /** `number` counts from 1. */
  async uploadPart(
    { name, id }: Upload,
    number: number,
    pieces: readonly Uint8Array[],
    checksum: number,
    options: RequestOptions,
  ): Promise<UploadedPart> {
    const body = new PiecesBody(pieces);
    return this.#run("store", name, options, async () => {
      const { ETag } = await this.#client.send(
        new UploadPartCommand({
          ...{ Bucket: this.#bucket, Key: name, UploadId: id, PartNumber: number, Body: body },
          ...{ ContentLength: body.byteLength, ChecksumCRC32C: checksumHeader(checksum) },
        }),
        sendOptions(options),
      );
      return { etag: ETag, checksum };
    });
  }

  async completeUpload(
    { name, id, wholeChecksum }: Upload,
    parts: readonly UploadedPart[],
    checksum: number,
    condition: boolean,
    options: RequestOptions,
  ): Promise<CreateOutcome> {
    const Parts: CompletedPart[] = parts.map((part, i) => ({
      ...{ PartNumber: i + 1, ETag: part.etag, ChecksumCRC32C: checksumHeader(part.checksum) },
    }));
    return this.#unlessTaken("store", name, options, () =>
      this.#client.send(
        new CompleteMultipartUploadCommand({
          ...{ Bucket: this.#bucket, Key: name, UploadId: id, MultipartUpload: { Parts } },
          ...(wholeChecksum && { ChecksumCRC32C: checksumHeader(checksum), ChecksumType: "FULL_OBJECT" as const }),
          ...(condition && { IfNoneMatch: "*" }),
        }),
        sendOptions(options),
      ),
    );
  }

  /** False if there is no such upload any more. */
  async abortUpload(name: string, id: string, options: RequestOptions): Promise<boolean> {
    const aborted = await this.#unlessMissing("abort an upload", name, options, () =>
      this.#client.send(
        new AbortMultipartUploadCommand({ Bucket: this.#bucket, Key: name, UploadId: id }),
        sendOptions(options),
      ),
    );
    return aborted !== undefined;
  }

  /** The first 1,000 unfinished uploads below a prefix. */
  async listUploads(
    prefix: string,
    options: RequestOptions,
  ): Promise<{ readonly name: string; readonly id: string; readonly begunAtMs: number }[]> {
    return this.#run("list uploads", prefix, options, async () => {
      const { Uploads = [] } = await this.#client.send(
        new ListMultipartUploadsCommand({ Bucket: this.#bucket, Prefix: prefix }),
        sendOptions(options),
      );
      return Uploads.map(({ Key = "", UploadId = "", Initiated }) => ({
        ...{ name: Key, id: UploadId, begunAtMs: Initiated?.getTime() ?? Number.POSITIVE_INFINITY },
      }));
    });
  }

  async list({ prefix, token, startAfter, objectsMax }: ListOptions, options: RequestOptions): Promise<ListPage> {
    return this.#run("list", prefix, options, async () => {
      const { Contents = [], NextContinuationToken } = await this.#client.send(
        new ListObjectsV2Command({
          ...{ Bucket: this.#bucket, Prefix: prefix, ContinuationToken: token, StartAfter: startAfter },
          MaxKeys: objectsMax,
        }),
        sendOptions(options),
      );
      const objects = Contents.map(({ Key = "", Size = 0, LastModified }) => ({
        ...{ name: Key, bytes: Size, modifiedAtMs: LastModified?.getTime() ?? 0 },
      }));
      return { objects, next: NextContinuationToken };
    });
  }

  /** False if there was no such object. */
  async copy(from: string, to: string, options: RequestOptions): Promise<boolean> {
    const done = await this.#unlessMissing("copy", from, options, () =>
      this.#client.send(
        new CopyObjectCommand({
          ...{ Bucket: this.#bucket, Key: to, CopySource: `${this.#bucket}/${encodeURI(from)}`, ...this.#encryption },
        }),
        sendOptions(options),
      ),
    );
    return done !== undefined;
  }

  /** That there is none is no error to S3. */
  async delete(name: string, options: RequestOptions): Promise<void> {
    await this.#unlessMissing("remove", name, options, () =>
      this.#client.send(new DeleteObjectCommand({ Bucket: this.#bucket, Key: name }), sendOptions(options)),
    );
  }

  /** Up to 1,000 objects in one request; an error for each that could not be removed. */
  async deleteMany(names: readonly string[], options: RequestOptions): Promise<Map<string, unknown>> {
    return this.#run("remove", names[0] as string, options, async () => {
      const { Errors = [] } = await this.#client.send(
        new DeleteObjectsCommand({
          ...{ Bucket: this.#bucket, Delete: { Objects: names.map((Key) => ({ Key })), Quiet: true } },
        }),
        sendOptions(options),
      );
      return new Map(
        Errors.map(({ Key = "", Code = "InternalError" }) => [
          Key,
          toS3Error({ name: Code }, "remove", { ...this.place, object: Key }),
        ]),
      );
    });
  }

  close(): void {
    this.#client.destroy();
    this.#transport.destroy();
  }

  /** @throws KvferryError, or the signal's reason. */
  async #run<T>(operation: string, name: string, options: RequestOptions, request: () => Promise<T>): Promise<T> {
    try {
      return await this.gate.run(options.priority, options.signal, () => {
        options.onSent?.();
        return request();
      });
    } catch (thrown) {
      options.signal?.throwIfAborted(); // whatever broke off with it has no other cause
      throw toS3Error(thrown, operation, { ...this.place, object: name });
    }
  }

  /** Undefined where the object does not exist: not being there is an answer. */
  async #unlessMissing<T>(
    operation: string,
    name: string,
    options: RequestOptions,
    request: () => Promise<T>,
  ): Promise<T | undefined> {
    return this.#run(operation, name, options, async () => {
      try {
        return await request();
      } catch (thrown) {
        const code = s3Code(thrown);
        if (["NoSuchKey", "NotFound", "NoSuchUpload"].includes(code)) return undefined;
        if (httpStatus(thrown) === 404 && code !== "NoSuchBucket") return undefined;
        throw thrown;
      }
    });
  }

  async #unlessTaken(
    operation: string,
    name: string,
    options: RequestOptions,
    request: () => Promise<unknown>,
  ): Promise<CreateOutcome> {
    return this.#run(operation, name, options, async () => {
      try {
        await request();
        return "created";
      } catch (thrown) {
        if (httpStatus(thrown) === 412 || s3Code(thrown) === "ConditionalRequestConflict") return "taken";
        throw thrown;
      }
    });
  }
}

function sendOptions({ signal }: RequestOptions): { abortSignal?: AbortSignal } {
  if (signal === undefined) return {};
  setMaxListeners(0, signal); // one a request, which takes it away again: a batch is no leak
  return { abortSignal: signal };
}

/** Ends when the stream has ended; after an abort, no byte of it reaches the sink. */
function drain(stream: Readable, signal: AbortSignal | undefined, head: ObjectHead, sink: ObjectSink): Promise<void> {
  return new Promise((resolve, reject) => {
    let over = false;
    const letGo = (): void => {
      over = true;
      stream.destroy();
      resolve();
    };
    stream.on("error", reject);
    stream.on("end", resolve);
    stream.on("close", () => reject(Object.assign(new Error("the body was cut off"), { code: "ECONNRESET" })));
    if (signal?.aborted || !sink.head(head)) {
      letGo();
      return;
    }
    stream.on("data", (chunk: Uint8Array) => {
      if (over || signal?.aborted) return;
      if (!sink.chunk(chunk)) letGo();
    });
  });
}

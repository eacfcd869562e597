import { type ClientRequest, Agent as HttpAgent, request as httpRequest, type IncomingMessage } from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import { Readable } from "node:stream";
import { KvferryError } from "@kvferry/core";

/** The bytes of an object, in pieces that stay where they are. To the SDK it is a stream; our transport writes the pieces as they are. */
export class PiecesBody extends Readable {
  readonly pieces: readonly Uint8Array[];
  readonly byteLength: number;
  #next = 0;

  constructor(pieces: readonly Uint8Array[]) {
    super();
    this.pieces = pieces;
    this.byteLength = pieces.reduce((total, { length }) => total + length, 0);
  }

  override _read(): void {
    this.push(this.pieces[this.#next++] ?? null);
  }
}

/** The parts of the SDK's HttpRequest that are read here. */
interface RequestParts {
  readonly protocol: string;
  readonly hostname: string;
  readonly port?: number | undefined;
  readonly method: string;
  readonly path: string;
  readonly query?: Record<string, string | string[] | null> | undefined;
  readonly headers: Record<string, string>;
  readonly body?: unknown;
}

interface ResponseParts {
  readonly statusCode: number;
  readonly reason: string | undefined;
  readonly headers: Record<string, string>;
  readonly body: Uint8Array | IncomingMessage;
}

export interface TransportOptions {
  readonly socketsMax: number;
  /** Ms without a byte in either direction. */
  readonly idleMsMax: number;
}

/** Connections that were kept and turn out to be closed are replaced so often before the request counts as failed. */
const STALE_SOCKETS_MAX = 4;

/**
 * How the SDK's requests reach the network: Node's own HTTP over kept connections. Unlike the SDK's handler it writes bodies straight from the
 * slots, and when a signal is aborted the socket is closed before the listener returns: from then on nothing reads a slot.
 */
export class Transport {
  readonly metadata: { readonly handlerProtocol: string } = { handlerProtocol: "http/1.1" };
  readonly #http: HttpAgent;
  readonly #https: HttpsAgent;
  readonly #idleMsMax: number;

  constructor({ socketsMax, idleMsMax }: TransportOptions) {
    const options = { keepAlive: true, maxSockets: socketsMax, maxFreeSockets: socketsMax };
    this.#http = new HttpAgent(options);
    this.#https = new HttpsAgent(options);
    this.#idleMsMax = idleMsMax;
  }

  /** The SDK's interface. The body of a GetObject is the stream itself; every other body has been read to its end. */
  async handle(
    request: RequestParts,
    { abortSignal }: { abortSignal?: unknown } = {},
  ): Promise<{ response: ResponseParts }> {
    const signal = abortSignal as AbortSignal | undefined;
    for (let stale = 0; ; stale++) {
      signal?.throwIfAborted();
      const sent = this.#send(request, signal);
      try {
        return { response: await sent.response };
      } catch (thrown) {
        // a server may close an idle connection at any time: that says nothing about this request
        if (!sent.request.reusedSocket || !isClosed(thrown) || signal?.aborted || stale === STALE_SOCKETS_MAX)
          throw thrown;
      }
    }
  }

  /** The SDK's interface; there is nothing that may be changed. */
  updateHttpClientConfig(): void {}

  httpHandlerConfigs(): Record<string, never> {
    return {};
  }

  destroy(): void {
    this.#http.destroy();
    this.#https.destroy();
  }

  #send(
    request: RequestParts,
    signal: AbortSignal | undefined,
  ): { request: ClientRequest; response: Promise<ResponseParts> } {
    const secure = request.protocol === "https:";
    const outgoing = (secure ? httpsRequest : httpRequest)({
      agent: secure ? this.#https : this.#http,
      host: request.hostname.replace(/^\[(.+)\]$/, "$1"),
      ...(request.port !== undefined && { port: request.port }),
      method: request.method,
      path: request.path + queryOf(request.query),
      headers: request.headers,
      timeout: this.#idleMsMax,
    });
    const response = this.#response(outgoing, isObjectRead(request), signal);
    writeBody(outgoing, request.body);
    return { request: outgoing, response };
  }

  #response(outgoing: ClientRequest, streamed: boolean, signal: AbortSignal | undefined): Promise<ResponseParts> {
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        outgoing.destroy();
        reject(signal?.reason);
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      // after the answer to a streamed read the listener stays until the stream has ended
      outgoing.on("close", () => signal?.removeEventListener("abort", onAbort));
      outgoing.on("error", reject);
      outgoing.on("timeout", () => outgoing.destroy(silent(this.#idleMsMax)));
      outgoing.on("response", (incoming) => {
        const { statusCode = 0, statusMessage: reason } = incoming;
        const parts = { statusCode, reason, headers: headersOf(incoming) };
        if (streamed && statusCode < 300) resolve({ ...parts, body: incoming });
        else {
          const ended = readAll(incoming).finally(() => {
            // an answer that came before the body was sent, a refusal mostly: the rest of the slot must not be read any more
            if (!outgoing.destroyed && !outgoing.writableFinished) outgoing.destroy();
          });
          ended.then((body) => resolve({ ...parts, body }), reject);
        }
      });
    });
  }
}

function isObjectRead({ method, query }: RequestParts): boolean {
  return method === "GET" && query?.["x-id"] === "GetObject";
}

function writeBody(outgoing: ClientRequest, body: unknown): void {
  if (body instanceof PiecesBody) {
    outgoing.cork();
    for (const piece of body.pieces) outgoing.write(piece);
    outgoing.end();
    outgoing.uncork();
  } else if (body === undefined || body === null || typeof body === "string" || body instanceof Uint8Array) {
    outgoing.end(body ?? undefined);
  } else {
    outgoing.destroy(new KvferryError("INTERNAL", "s3: a body of a kind that is never sent"));
  }
}

async function readAll(incoming: IncomingMessage): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of incoming) chunks.push(chunk as Uint8Array);
  return chunks.length === 1 ? (chunks[0] as Uint8Array) : Buffer.concat(chunks);
}

function headersOf({ headers }: IncomingMessage): Record<string, string> {
  const texts: Record<string, string> = {};
  for (const [name, value] of Object.entries(headers)) {
    if (value !== undefined) texts[name] = Array.isArray(value) ? value.join(", ") : value;
  }
  return texts;
}

function queryOf(query: RequestParts["query"]): string {
  const parts: string[] = [];
  for (const [name, value] of Object.entries(query ?? {})) {
    for (const each of Array.isArray(value) ? value : [value]) {
      parts.push(each === null ? escapeUri(name) : `${escapeUri(name)}=${escapeUri(each)}`);
    }
  }
  return parts.length === 0 ? "" : `?${parts.join("&")}`;
}

/** As the signature does it. */
function escapeUri(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, (each) => `%${each.charCodeAt(0).toString(16).toUpperCase()}`);
}

function isClosed(thrown: unknown): boolean {
  return ["ECONNRESET", "EPIPE", "ECONNABORTED"].includes((thrown as NodeJS.ErrnoException).code ?? "");
}

function silent(idleMsMax: number): KvferryError {
  return new KvferryError("UNAVAILABLE", `s3: the storage has been silent for ${idleMsMax} ms`);
}

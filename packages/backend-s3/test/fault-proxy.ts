import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  request,
  type Server,
  type ServerResponse,
} from "node:http";
import type { AddressInfo } from "node:net";

/** What a bad network, or a storage in trouble, does to one request. */
export type Fault =
  | { readonly kind: "answer"; readonly status: number; readonly code: string }
  /** Says that it is done, and does nothing. */
  | { readonly kind: "pretend" }
  /** Takes `bytes` of the body, then cuts the connection. */
  | { readonly kind: "cutRequest"; readonly bytes: number }
  | { readonly kind: "cutResponse"; readonly bytes: number }
  | { readonly kind: "flipRequest"; readonly at: number }
  | { readonly kind: "flipResponse"; readonly at: number }
  /** The storage has done it, and nobody hears. */
  | { readonly kind: "loseAnswer" }
  | { readonly kind: "hang" }
  /** Does not read the body until `release` has ended; then keeps in `held` what still comes. */
  | { readonly kind: "hold"; readonly release: Promise<void>; readonly held: Uint8Array[] }
  /** Sends `bytes` of the answer's body and no more, or no more before `release` has ended. */
  | { readonly kind: "stall"; readonly bytes: number; readonly release?: Promise<void> }
  | { readonly kind: "delay"; readonly ms: number }
  /** Does not pass a header on: such as a storage that does not know it. */
  | { readonly kind: "ignoreHeader"; readonly name: string };

export interface SeenRequest {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingHttpHeaders;
}

/** Stand-in for a bad network: an HTTP proxy before a real server that breaks what a test tells it to break. */
export class FaultProxy {
  readonly seen: SeenRequest[] = [];
  /** Decides for each request; undefined lets it pass. */
  fault: (seen: SeenRequest) => Fault | undefined = () => undefined;
  readonly #server: Server;
  readonly #targetPort: number;

  constructor(targetPort: number) {
    this.#targetPort = targetPort;
    this.#server = createServer((incoming, answer) => this.#handle(incoming, answer));
  }

  async start(port = 0): Promise<string> {
    await new Promise<void>((done) => this.#server.listen(port, "127.0.0.1", done));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((done) => this.#server.close(done));
  }

  /** Connections of clients that are open. */
  connections(): Promise<number> {
    return new Promise((done) => this.#server.getConnections((_, count) => done(count)));
  }

  #handle(incoming: IncomingMessage, answer: ServerResponse): void {
    const seen = { method: incoming.method ?? "", url: incoming.url ?? "", headers: { ...incoming.headers } };
    this.seen.push(seen);
    const fault = this.fault(seen);
    incoming.on("error", () => {});
    answer.on("error", () => {});
    if (fault?.kind === "hang") return;
    if (fault?.kind === "hold") {
      void fault.release.then(() => incoming.on("data", (chunk: Buffer) => fault.held.push(chunk)));
      return;
    }
    if (fault?.kind === "pretend") {
      incoming.resume().on("end", () => answer.writeHead(200).end());
      return;
    }
    if (fault?.kind === "answer") {
      const body = `<?xml version="1.0"?><Error><Code>${fault.code}</Code><Message>as told</Message></Error>`;
      incoming
        .resume()
        .on("end", () => answer.writeHead(fault.status, { "content-type": "application/xml" }).end(body));
      return;
    }
    if (fault?.kind === "delay") setTimeout(() => this.#forward(incoming, answer, undefined), fault.ms);
    else this.#forward(incoming, answer, fault);
  }

  #forward(incoming: IncomingMessage, answer: ServerResponse, fault: Fault | undefined): void {
    const headers = { ...incoming.headers };
    if (fault?.kind === "ignoreHeader") delete headers[fault.name];
    const { method, url: path } = incoming;
    const outgoing = request({ agent: false, port: this.#targetPort, host: "127.0.0.1", method, path, headers });
    outgoing.on("error", () => incoming.socket.destroy());
    incoming.on("close", () => {
      if (!incoming.complete) outgoing.destroy();
    });
    let sent = 0;
    incoming.on("data", (chunk: Buffer) => {
      if (fault?.kind === "cutRequest" && sent + chunk.length > fault.bytes) {
        incoming.socket.destroy();
        outgoing.destroy(); // also where all of the request had come
      } else outgoing.write(fault?.kind === "flipRequest" ? flipped(chunk, fault.at - sent) : chunk);
      sent += chunk.length;
    });
    incoming.on("end", () => outgoing.end());
    outgoing.on("response", (response) => {
      if (fault?.kind === "loseAnswer") {
        response.resume().on("end", () => incoming.socket.destroy());
        return;
      }
      answer.writeHead(response.statusCode ?? 500, response.headers);
      let passed = 0;
      response.on("error", () => answer.destroy());
      response.on("data", (chunk: Buffer) => {
        const limit = fault?.kind === "cutResponse" || fault?.kind === "stall" ? fault.bytes : Number.POSITIVE_INFINITY;
        const part = chunk.subarray(0, Math.max(0, limit - passed));
        answer.write(fault?.kind === "flipResponse" ? flipped(part, fault.at - passed) : part, () => {
          if (fault?.kind === "cutResponse" && passed > limit) incoming.socket.destroy();
        });
        passed += chunk.length;
        if (fault?.kind === "stall") void fault.release?.then(() => answer.write(chunk.subarray(part.length)));
      });
      response.on("end", () => {
        if (fault?.kind !== "stall" && fault?.kind !== "cutResponse") answer.end();
      });
    });
  }
}

function flipped(chunk: Buffer, at: number): Buffer {
  if (at < 0 || at >= chunk.length) return chunk;
  const copy = Buffer.from(chunk);
  copy[at] = (copy[at] as number) ^ 1;
  return copy;
}

import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { pipeline } from "node:stream";

/** A way to a server that can be closed. */
export class Road {
  attempts = 0;
  readonly #to: number;
  readonly #sockets: Set<Socket> = new Set();
  readonly #pairs: (readonly [Socket, Socket])[] = [];
  readonly #server: Server;
  #blocked = false;
  /** What the server says comes in pieces of so many bytes. */
  pieceBytes: number | undefined;
  /** Connections beyond so many are taken, and hear nothing. */
  answeredMax: number = Number.POSITIVE_INFINITY;

  constructor(to: number) {
    this.#to = to;
    this.#server = createServer((socket) => this.#pass(socket));
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  async open(): Promise<void> {
    await listen(this.#server);
  }

  /** New connections are cut at once; those that stand go on. */
  refuse(): void {
    this.#blocked = true;
  }

  block(): void {
    this.refuse();
    for (const socket of this.#sockets) socket.destroy();
  }

  unblock(): void {
    this.#blocked = false;
  }

  /** Nothing passes on a connection any more, which stays open: the first one is 0. */
  freeze(connection: number): void {
    for (const socket of this.#pairs[connection] ?? []) socket.unpipe().pause();
  }

  /** Connections that stand. */
  get standing(): number {
    return this.#sockets.size;
  }

  close(): void {
    this.block();
    this.#server.close();
  }

  #pass(socket: Socket): void {
    this.attempts++;
    socket.on("error", () => {});
    if (this.#blocked) {
      socket.destroy();
      return;
    }
    this.#sockets.add(socket);
    socket.on("close", () => this.#sockets.delete(socket));
    if (this.attempts > this.answeredMax) {
      socket.resume();
      return;
    }
    socket.setNoDelay(true);
    const further = connect(this.#to, "127.0.0.1").on("error", () => {});
    this.#pairs.push([socket, further]);
    socket.on("close", () => further.destroy());
    further.on("close", () => socket.destroy());
    socket.pipe(further);
    if (this.pieceBytes === undefined) further.pipe(socket);
    else pipeline(further, inPieces(this.pieceBytes), socket, () => {});
  }
}

/** Takes what it gets apart, with a turn of the other side between the pieces. */
function inPieces(bytes: number): (source: AsyncIterable<Buffer>) => AsyncGenerator<Buffer> {
  return async function* (source) {
    for await (const chunk of source) {
      for (let at = 0; at < chunk.length; at += bytes) {
        yield chunk.subarray(at, at + bytes);
        await new Promise((done) => setImmediate(done));
      }
    }
  };
}

/** Begins to listen on a free port of the loopback interface. */
export function listen(server: Server): Promise<number> {
  return new Promise((done) => {
    server.listen(0, "127.0.0.1", () => done((server.address() as AddressInfo).port));
  });
}

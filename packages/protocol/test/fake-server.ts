import { type KeyBatch, packedKeys } from "@kvferry/core";
import {
  type ClientMessage,
  type Connector,
  decodeClientMessage,
  encodeMessage,
  FrameDecoder,
  type ServerMessage,
  type TransportHandlers,
  type WelcomeMessage,
} from "../src/index.js";

export const KEY_BYTES = 36;
export const welcome: WelcomeMessage = {
  t: "welcome",
  version: 1,
  server: { name: "fake", version: "0", pid: 1 },
  digest: "00".repeat(32),
  requestsMax: 64,
  batchKeysMax: 4096,
};

/** The other end of a client, in this process. */
export class FakeServer {
  readonly received: ClientMessage[] = [];
  readonly sentFds: (readonly number[])[] = [];
  readonly closedFds: number[] = [];
  halfClosed = false;
  #handlers!: TransportHandlers;
  readonly #decoder: FrameDecoder = new FrameDecoder();
  #over = false;

  readonly connector: Connector = async (handlers) => {
    this.#handlers = handlers;
    return {
      send: (bytes: Uint8Array, fds: readonly number[] = []) => {
        if (this.#over) return false;
        this.sentFds.push(fds);
        this.#decoder.push(bytes.slice());
        for (let body = this.#decoder.next(); body !== undefined; body = this.#decoder.next()) {
          const message = decodeClientMessage(body);
          this.received.push(message);
          if (message.t === "hello") queueMicrotask(() => this.onHello());
        }
        return true;
      },
      end: () => {
        this.halfClosed = true;
      },
      close: () => this.end(),
      closeFd: (fd: number) => void this.closedFds.push(fd),
    };
  };

  onHello: () => void = () => this.say(welcome);

  say(message: ServerMessage, fds: readonly number[] = []): void {
    this.#handlers.onData(encodeMessage(message), fds);
  }

  bytes(bytes: Uint8Array): void {
    this.#handlers.onData(bytes);
  }

  end(error?: Error): void {
    if (this.#over) return;
    this.#over = true;
    this.#handlers.onClose(error);
  }
}

export function keys(count: number): KeyBatch {
  return packedKeys(new Uint8Array(count * KEY_BYTES), KEY_BYTES);
}

export async function settled(promise: Promise<unknown>): Promise<boolean> {
  let done = false;
  const settle = (): void => {
    done = true;
  };
  promise.then(settle, settle);
  await new Promise((resolve) => setImmediate(resolve));
  return done;
}

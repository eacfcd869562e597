import { KvferryError, toKvferryError } from "@kvferry/core";

/** What a transport tells. */
export interface TransportHandlers {
  /** Received bytes, which do not change afterwards, and descriptors that came with them: whoever gets them closes them. */
  onData(bytes: Uint8Array, fds?: readonly number[]): void;
  /** The stream has ended, or broken. Called once, always. */
  onClose(error: Error | undefined): void;
}

/** A stream of bytes to the server that can carry descriptors. */
export interface FrameTransport {
  /** Sends bytes, with descriptors attached to the first one. False once the connection is over. */
  send(bytes: Uint8Array, fds?: readonly number[]): boolean;
  /** No more sending; receiving goes on. */
  end(): void;
  /** Closes at once. A server may still be moving bytes: see "The fence" in docs/protocol.md. */
  close(): void;
  /** Closes a descriptor that came with bytes. Left out where none come. */
  closeFd?(fd: number): void;
}

/** Connects and attaches the handlers. */
export type Connector = (handlers: TransportHandlers) => Promise<FrameTransport>;

/** The part of @kvferry/native that a connection needs. */
export interface UnixSockets {
  connectUnix(
    path: string,
    handlers: {
      onData(bytes: Uint8Array, fds: readonly number[]): void;
      onClose(error: Error | undefined): void;
    },
  ): Omit<FrameTransport, "closeFd">;
  closeFd(fd: number): void;
}

const NATIVE_PACKAGE = "@kvferry/native";

/** Unix sockets of @kvferry/native, which carry descriptors. The package is loaded when the connector is used, unless it is given. */
export function nativeTransport(path: string, sockets?: UnixSockets): Connector {
  return async (handlers) => {
    const native = sockets ?? (await loadNative());
    try {
      const connection = native.connectUnix(path, {
        onData: (bytes, fds) => handlers.onData(bytes, fds),
        onClose: (error) => handlers.onClose(error),
      });
      return {
        send: (bytes, fds) => connection.send(bytes, fds),
        end: () => connection.end(),
        close: () => connection.close(),
        closeFd: (fd) => native.closeFd(fd),
      };
    } catch (thrown) {
      throw toKvferryError(thrown, "connect");
    }
  };
}

async function loadNative(): Promise<UnixSockets> {
  try {
    // By a variable, so that bundlers and type checks leave it alone: it is an optional peer.
    return (await import(NATIVE_PACKAGE)) as UnixSockets;
  } catch (cause) {
    throw new KvferryError("UNSUPPORTED", `passing descriptors needs the package ${NATIVE_PACKAGE}: ${String(cause)}`, {
      operation: "connect",
      cause,
    });
  }
}

/** Unix sockets of Node, which carry no descriptors: the region must have a path that the server can open too. */
export function netTransport(path: string): Connector {
  return async (handlers) => {
    const { createConnection } = await import("node:net");
    return new Promise((resolve, reject) => {
      let connected = false;
      let failure: Error | undefined;
      const socket = createConnection({ path, allowHalfOpen: true });
      socket.on("connect", () => {
        connected = true;
        resolve({
          send(bytes, fds = []) {
            if (fds.length > 0) throw new KvferryError("UNSUPPORTED", "a node:net socket carries no descriptors");
            if (!socket.writable) return false;
            socket.write(bytes);
            return true;
          },
          end: () => void socket.end(),
          close: () => void socket.destroy(),
        });
      });
      socket.on("data", (bytes) => handlers.onData(bytes));
      socket.on("end", () => void socket.end());
      socket.on("error", (error) => {
        failure = error;
        if (!connected) reject(toKvferryError(asUnavailable(error, path), "connect", { path }));
      });
      socket.on("close", () => {
        if (connected) handlers.onClose(failure);
      });
    });
  };
}

function asUnavailable(error: NodeJS.ErrnoException, path: string): Error {
  if (error.code !== "ENOENT") return error;
  return new KvferryError("UNAVAILABLE", `no server listens at ${path}: there is no such socket`, {
    operation: "connect",
    context: { path },
    cause: error,
  });
}

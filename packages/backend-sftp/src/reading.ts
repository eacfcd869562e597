import { connect, type Socket } from "node:net";

/** What one read takes from the kernel at most: some packets of SSH, so that few are torn. */
const READ_BYTES = 256 * 1024;

/** A socket that reads into one buffer, again and again: memory that is taken anew for every read costs more than the read. */
export interface ReadingSocket {
  readonly socket: Socket;
  /** From now on those who listen for data get the buffer itself, which the next read fills; until then, or when called with false, a copy. */
  lend(lends: boolean): void;
}

/** Connects a socket whose data goes to the listeners of `data`, as with any other. */
export function connectReading(host: string, port: number): ReadingSocket {
  const buffer = Buffer.allocUnsafeSlow(READ_BYTES);
  let lends = false;
  const callback = (count: number): boolean => {
    const bytes = buffer.subarray(0, count);
    socket.emit("data", lends ? bytes : Buffer.from(bytes));
    return true;
  };
  const socket = connect({ host, port, noDelay: true, onread: { buffer, callback } });
  return {
    socket,
    lend(value) {
      lends = value;
    },
  };
}

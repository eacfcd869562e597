import { type ErrorCode, KvferryError } from "@kvferry/core";
import { OP_UNSUPPORTED, Status } from "./wire.js";

/** A status by which a server has refused a request. It never leaves the package: see `toSftpError`. */
export class SftpStatusError extends Error {
  override readonly name: string = "SftpStatusError";
  readonly status: number;

  constructor(status: number, message: string) {
    super(message.slice(0, 200).replace(/[^\x20-\x7e\xa0-\uffff]/g, "?")); // it goes into logs
    this.status = status;
  }
}

/** Whether a request was refused because there is no such file or folder. */
export function isMissing(thrown: unknown): boolean {
  return thrown instanceof SftpStatusError && thrown.status === Status.NO_SUCH_FILE;
}

/** Whether the server gave no more of a reason than that it failed: a full disk, a name that is taken, a folder that is not empty. */
export function isFailure(thrown: unknown): boolean {
  return thrown instanceof SftpStatusError && thrown.status === Status.FAILURE;
}

const STATUS_CODES: Readonly<Record<number, readonly [code: ErrorCode, words: string]>> = {
  [Status.NO_SUCH_FILE]: ["STALE", "a folder or file that must be there is not"],
  [Status.PERMISSION_DENIED]: ["PERMISSION", "the user may not do this there: check owner and mode of the folder"],
  [Status.FAILURE]: ["IO", "the server gives no reason"],
  [Status.BAD_MESSAGE]: ["INVALID_ARGUMENT", "the server does not take the request"],
  [OP_UNSUPPORTED]: ["UNSUPPORTED", "the server does not have this"],
};

/** What was thrown, as a KvferryError. */
export function toSftpError(thrown: unknown, operation: string, facts: Record<string, unknown>): KvferryError {
  if (thrown instanceof KvferryError) return thrown;
  const details = { operation, context: facts };
  if (thrown instanceof SftpStatusError) {
    const [code, words] = STATUS_CODES[thrown.status] ?? ["IO", "the server has refused"];
    const said = thrown.message === "" ? "" : ` (status ${thrown.status}, "${thrown.message}")`;
    return new KvferryError(code, `sftp: ${operation}: ${words}${said}`, details);
  }
  if (thrown instanceof RangeError) {
    return new KvferryError("PROTOCOL", `sftp: ${operation}: a reply that cannot be read: ${thrown.message}`, details);
  }
  const { message } = thrown as Error;
  return new KvferryError("INTERNAL", `sftp: ${operation}: ${String(message)}`, { ...details, cause: thrown });
}

const NETWORK: Readonly<Record<string, string>> = {
  ECONNREFUSED: "nobody listens there",
  ENOTFOUND: "its name is not known",
  EAI_AGAIN: "its name cannot be looked up now",
  ECONNRESET: "the connection was cut",
  EPIPE: "the connection was cut",
  ETIMEDOUT: "it does not answer",
  EHOSTUNREACH: "there is no way to it",
  ENETUNREACH: "there is no way to it",
  EADDRNOTAVAIL: "no local port is free",
};

/** Where a connection goes, for messages. */
export interface Place {
  readonly host: string;
  readonly port: number;
  readonly user: string;
}

/** What ssh2 or the socket has thrown while a connection was made or lived. Nothing of the error is kept but its words. */
export function toConnectionError(thrown: unknown, { host, port, user }: Place): KvferryError {
  if (thrown instanceof KvferryError) return thrown;
  const { code, level, message } = thrown as { code?: unknown; level?: unknown; message?: unknown };
  const fail = (ours: ErrorCode, words: string, field?: string): KvferryError =>
    new KvferryError(ours, `sftp: ${host}:${port}: ${words}`, {
      operation: "connect",
      context: { host, port, ...(field !== undefined && { field }) },
    });
  if (level === "client-authentication") {
    const how = "check 'user', 'privateKeyFile' or 'agent', and authorized_keys on the host";
    return fail("PERMISSION", `the host does not let ${user} in with this key: ${how}`, "privateKeyFile");
  }
  if (level === "agent") return fail("PERMISSION", "the SSH agent cannot be asked: check 'agent'", "agent");
  if (level === "client-timeout") return fail("UNAVAILABLE", "the host does not answer in time", "host");
  const words = typeof code === "string" ? NETWORK[code] : undefined;
  if (words !== undefined) {
    return fail("UNAVAILABLE", `the host cannot be reached: ${words} (${code}); check 'host' and 'port'`, "host");
  }
  if (/lost before handshake/i.test(String(message))) {
    const who = "MaxStartups or PerSourcePenalties of sshd, or a firewall, may have it so";
    return fail("UNAVAILABLE", `the connection was cut before anyone could log in: ${who}`, "host");
  }
  if (level === "handshake" && /no matching/i.test(String(message))) {
    return fail("UNSUPPORTED", `host and client have no algorithm in common: ${String(message)}`, "host");
  }
  return fail("UNAVAILABLE", `the connection has failed: ${String(message)}`);
}

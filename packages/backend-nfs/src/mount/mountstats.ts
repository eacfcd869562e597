/** What the client has counted of one kind of request since the mount. Times are sums over requests. */
export interface NfsOperation {
  readonly requests: number;
  /** With those sent again. */
  readonly transmissions: number;
  /** Times that a request was given up on, or begun anew on a hard mount, after all its tries. */
  readonly majorTimeouts: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  /** Before a request was sent; until its answer came; both and what the client did itself. */
  readonly queueMs: number;
  readonly roundTripMs: number;
  readonly executeMs: number;
  /** Requests that the server answered with an error; 0 where the kernel does not count them (before Linux 5.3). */
  readonly errors: number;
}

/** One mount's part of /proc/self/mountstats. */
export interface NfsMountStats {
  readonly mountPoint: string;
  /** All options, with those that mountinfo leaves out because they are the default. */
  readonly options: readonly string[];
  readonly ageSeconds: number;
  /** One a connection. */
  readonly transports: readonly { readonly protocol: string; readonly connects: number }[];
  /** By the names of the protocol: GETATTR, LOOKUP, READ … */
  readonly operations: ReadonlyMap<string, NfsOperation>;
}

/** Parses what it knows of the NFS mounts in /proc/self/mountstats (statistics version 1.0 and 1.1). */
export function parseMountStats(text: string): NfsMountStats[] {
  const found: NfsMountStats[] = [];
  for (const part of text.split(/^(?=device )/m)) {
    const head = /^device .* mounted on (\S+) with fstype nfs4?\b/.exec(part);
    if (head !== null) found.push(parsePart(decoded(head[1] as string), part));
  }
  return found;
}

function parsePart(mountPoint: string, part: string): NfsMountStats {
  const value = (name: string): string | undefined => new RegExp(`^\\s*${name}:\\s*(.*)$`, "m").exec(part)?.[1];
  const operations = new Map<string, NfsOperation>();
  const perOperation = part.slice(part.indexOf("per-op statistics"));
  for (const [, name, numbers] of perOperation.matchAll(/^\s*([A-Z_0-9]+):((?: \d+)+)\s*$/gm)) {
    operations.set(name as string, operationOf((numbers as string).trim().split(" ").map(Number)));
  }
  const transports = [...part.matchAll(/^\s*xprt:\s*(\S+)\s+(.*)$/gm)].map(([, protocol, rest]) => ({
    protocol: protocol as string,
    // source port (not of local sockets), binds, connects
    connects: Number((rest as string).split(" ")[protocol === "local" ? 1 : 2]) || 0,
  }));
  const options = (value("opts") ?? "").split(",").filter((option) => option !== "");
  return { mountPoint, options, ageSeconds: Number(value("age") ?? 0), transports, operations };
}

function operationOf(numbers: readonly number[]): NfsOperation {
  const [requests = 0, transmissions = 0, majorTimeouts = 0, bytesSent = 0, bytesReceived = 0] = numbers;
  const [queueMs = 0, roundTripMs = 0, executeMs = 0, errors = 0] = numbers.slice(5);
  return { requests, transmissions, majorTimeouts, bytesSent, bytesReceived, queueMs, roundTripMs, executeMs, errors };
}

/** The kernel writes blanks and the like as octal numbers. */
function decoded(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

/** Counters of a mount for metrics, by name; they only rise. */
export function mountCounters({ operations, transports }: NfsMountStats): Record<string, number> {
  const sum = { requests: 0, again: 0, timeouts: 0, sent: 0, received: 0, queueMs: 0, roundTripMs: 0, errors: 0 };
  for (const each of operations.values()) {
    sum.requests += each.requests;
    sum.again += Math.max(0, each.transmissions - each.requests);
    sum.timeouts += each.majorTimeouts;
    sum.sent += each.bytesSent;
    sum.received += each.bytesReceived;
    sum.queueMs += each.queueMs;
    sum.roundTripMs += each.roundTripMs;
    sum.errors += each.errors;
  }
  const requestsOf = (...names: string[]): number =>
    names.reduce((requests, name) => requests + (operations.get(name)?.requests ?? 0), 0);
  return {
    nfs_requests_total: sum.requests,
    nfs_lookup_requests_total: requestsOf("LOOKUP"),
    nfs_getattr_requests_total: requestsOf("GETATTR"),
    nfs_listing_requests_total: requestsOf("READDIR", "READDIRPLUS"),
    nfs_read_requests_total: requestsOf("READ"),
    nfs_write_requests_total: requestsOf("WRITE"),
    nfs_error_answers_total: sum.errors,
    nfs_retransmissions_total: sum.again,
    nfs_timeouts_total: sum.timeouts,
    nfs_connects_total: transports.reduce((connects, transport) => connects + transport.connects, 0),
    nfs_sent_bytes_total: sum.sent,
    nfs_received_bytes_total: sum.received,
    nfs_round_trip_seconds_total: sum.roundTripMs / 1000,
    nfs_queue_seconds_total: sum.queueMs / 1000,
  };
}

import { type BatchResult, type KeyBatch, KvferryError, type NamespaceFields, type RemovalReason } from "@kvferry/core";
import { PROTOCOL_VERSION } from "./limits.js";
import { Link, type RequestOptions } from "./link.js";
import type { ClientIdentity, HelloMessage, VllmFsNames, WelcomeMessage } from "./messages.js";
import { type Connector, nativeTransport, netTransport } from "./transport.js";

/** The memory that holds the blocks: a region of @kvferry/native (by its descriptor), or a file (by its path). */
export interface ClientRegion {
  readonly rows: number;
  readonly rowBytes: number;
  /** Byte offset of row 0 in the file, a multiple of 4096; default 0. */
  readonly offset?: number;
  /** Descriptor to pass; left out or negative, `path` is used. It stays the caller's. */
  readonly fd?: number;
  /** Absolute path, as the server sees it. */
  readonly path?: string;
}

export interface ConnectOptions {
  /** Path of the server's socket. */
  readonly socket?: string;
  /** Instead of `socket`: another way to connect. */
  readonly transport?: Connector;
  readonly namespace: NamespaceFields;
  readonly keyBytes: number;
  /** Default: the region's rowBytes. */
  readonly blockBytes?: number;
  readonly region: ClientRegion;
  readonly client?: Partial<ClientIdentity>;
  readonly vllmFs?: VllmFsNames;
  /** Hears of blocks that are gone. */
  readonly onRemoved?: (keys: KeyBatch, reason: RemovalReason) => void;
  /** The server is about to end: it answers what it has and takes no new stores and loads. */
  readonly onDrain?: () => void;
  /** Ms until the server must have answered HELLO; default 30,000. */
  readonly timeoutMs?: number;
}

export interface TransferResult extends BatchResult {
  /** Microseconds that the server took. */
  readonly us: number;
}

/**
 * One connection to the connector server. Any number of requests may be under way, up to `welcome.requestsMax`.
 *
 * A promise of `store` or `load` settles only when no I/O touches its slots any more: by the server's answer, or by the end of the stream,
 * which the server closes after the last of its I/O. So it may settle late, and never too early.
 */
export class KvferryClient {
  readonly welcome: WelcomeMessage;
  readonly #link: Link;

  private constructor(link: Link, welcome: WelcomeMessage) {
    this.#link = link;
    this.welcome = welcome;
  }

  /** Connects, passes the region and waits for WELCOME.
   * @throws KvferryError UNAVAILABLE where no server listens, DEADLINE where it does not answer, or what the server refused it with. */
  static async connect(options: ConnectOptions): Promise<KvferryClient> {
    const link = new Link(options);
    await link.open(connectorOf(options));
    const { fd } = options.region;
    const { welcome } = await link.greet(helloOf(options), fd !== undefined && fd >= 0 ? [fd] : []);
    return new KvferryClient(link, welcome);
  }

  /** False once the connection is over; every call rejects from then on. */
  get connected(): boolean {
    return !this.#link.over;
  }

  /** Settles (never rejects) when the connection is over, with the reason if there is one. */
  get closed(): Promise<KvferryError | undefined> {
    return this.#link.closed;
  }

  /** One LookupState byte per key. */
  lookup(keys: KeyBatch, options: RequestOptions = {}): Promise<Uint8Array> {
    const link = this.#link;
    return link.request({ t: "lookup", id: link.id(), keys: link.packed(keys) }, keys.count, options);
  }

  /** Stores the blocks in the slots. */
  store(keys: KeyBatch, slots: ArrayLike<number>, options: RequestOptions = {}): Promise<TransferResult> {
    return this.#transfer("store", keys, slots, options);
  }

  /** Loads blocks into the slots. */
  load(keys: KeyBatch, slots: ArrayLike<number>, options: RequestOptions = {}): Promise<TransferResult> {
    return this.#transfer("load", keys, slots, options);
  }

  ping(): Promise<void> {
    return this.#link.request({ t: "ping", id: this.#link.id() }, 0, {});
  }

  /** Ends the connection: says that no more requests come, and waits until the server has ended its I/O and the stream. Requests under
   * way are finished and answered, unless that takes the server too long. Afterwards no slot is touched. */
  async close(): Promise<void> {
    this.#link.end();
    await this.#link.closed;
  }

  async #transfer(
    t: "store" | "load",
    keys: KeyBatch,
    slots: ArrayLike<number>,
    options: RequestOptions,
  ): Promise<TransferResult> {
    if (slots.length !== keys.count) {
      throw new KvferryError("INVALID_ARGUMENT", `${slots.length} slots for ${keys.count} keys`, { operation: t });
    }
    const packed = slots instanceof Uint32Array ? slots : Uint32Array.from(slots);
    const link = this.#link;
    return link.request({ t, id: link.id(), keys: link.packed(keys), slots: packed }, keys.count, options);
  }
}

function connectorOf({ transport, socket, region }: ConnectOptions): Connector {
  if (transport !== undefined) return transport;
  if (socket === undefined) throw new KvferryError("INVALID_ARGUMENT", "connect needs `socket` or `transport`");
  if (region.fd !== undefined && region.fd >= 0) return nativeTransport(socket);
  if (region.path === undefined) throw new KvferryError("INVALID_ARGUMENT", "the region needs `fd` or `path`");
  return netTransport(socket);
}

function helloOf(options: ConnectOptions): HelloMessage {
  const { region, client, vllmFs, onRemoved } = options;
  const offset = region.offset ?? 0;
  const blockBytes = options.blockBytes ?? region.rowBytes;
  const bytes = offset + region.rows * region.rowBytes;
  return {
    t: "hello",
    version: PROTOCOL_VERSION,
    client: identityOf(client),
    namespace: options.namespace,
    keyBytes: options.keyBytes,
    blockBytes,
    regions: [region.path === undefined ? { bytes } : { bytes, path: region.path }],
    fragments: [{ region: 0, offset, stride: region.rowBytes, bytes: blockBytes }],
    slots: region.rows,
    vllmFs: vllmFs ?? null,
    events: onRemoved !== undefined,
  };
}

/** What logs call a client, with what it does not say filled in. */
export function identityOf(client: Partial<ClientIdentity> = {}): ClientIdentity {
  const { name = "kvferry-client", version = "0", instance = crypto.randomUUID() } = client;
  return { name, version, instance };
}

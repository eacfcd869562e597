import { type BatchResult, type KeyBatch, KvferryError, type NamespaceFields, type RemovalReason } from "@kvferry/core";
import { identityOf, type TransferResult } from "./client.js";
import type { DirectEngineFields, DirectWelcome, DirectWorker, StoredMessage } from "./direct-messages.js";
import { PROTOCOL_VERSION } from "./limits.js";
import { type Greeting, Link, type RequestOptions } from "./link.js";
import type { ClientIdentity, HelloFields, VllmFsNames, WelcomeMessage } from "./messages.js";
import { type Connector, nativeTransport } from "./transport.js";

/** What the scheduler of an engine and its workers say alike. */
export interface DirectConnectOptions extends DirectEngineFields {
  /** Path of the server's socket. */
  readonly socket?: string;
  /** Instead of `socket`: another way to connect. A worker's must carry descriptors. */
  readonly transport?: Connector;
  readonly namespace: NamespaceFields;
  readonly keyBytes: number;
  readonly blockBytes: number;
  readonly client?: Partial<ClientIdentity>;
  readonly vllmFs?: VllmFsNames;
  /** The server is about to end: it answers what it has, and takes no new holds and gathers. */
  readonly onDrain?: () => void;
  /** Ms until the server must have answered HELLO; default 30,000. */
  readonly timeoutMs?: number;
}

export interface SchedulerConnectOptions extends DirectConnectOptions {
  /** Workers of the engine that load; default: as many as parts. */
  readonly workers?: number;
  /** Hears of blocks that are gone. */
  readonly onRemoved?: (keys: KeyBatch, reason: RemovalReason) => void;
  /** Hears what the tiers have answered for the chunks of a ticket. */
  readonly onStored?: (message: StoredMessage) => void;
}

export interface WorkerConnectOptions
  extends DirectConnectOptions,
    Pick<DirectWorker, "part" | "memory" | "tensors" | "groups" | "blocksPerChunk"> {
  /** Default true. */
  readonly stores?: boolean;
  /** Of memory of the kind `region`: a descriptor each. They stay the caller's. */
  readonly fds?: readonly number[];
}

export interface HoldResult extends BatchResult {
  /** Where each held block lies in the arena, bytes. */
  readonly offsets: Float64Array;
  /** Microseconds that the server took. */
  readonly us: number;
}

/** Where chunks are in a worker's memory: key i is of group `groups[i]`; `blocks` has blocksPerChunk page numbers for each, or NO_BLOCK. */
export interface Chunks {
  readonly keys: KeyBatch;
  readonly groups: Uint32Array;
  readonly blocks: Uint32Array;
}

type DirectGreeting = Greeting & { readonly welcome: WelcomeMessage & { readonly direct: DirectWelcome } };

/** The scheduler's connection of an engine in direct mode. */
export class DirectSchedulerClient {
  readonly welcome: DirectGreeting["welcome"];
  readonly #link: Link;

  private constructor(link: Link, welcome: DirectGreeting["welcome"]) {
    this.#link = link;
    this.welcome = welcome;
  }

  /** @throws KvferryError as `KvferryClient.connect`. */
  static async connect(options: SchedulerConnectOptions): Promise<DirectSchedulerClient> {
    const link = new Link(options);
    const { engine, parts, partBytes, workers = parts } = options;
    const direct = { role: "scheduler", engine, parts, partBytes, workers } as const;
    const hello = { ...helloFields(options, options.onRemoved !== undefined), direct };
    const { welcome } = await greeted(link, options, () => link.greet(hello, []));
    return new DirectSchedulerClient(link, welcome);
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

  /** Brings blocks into the arena, verified, and keeps them there until `release`. LOADED: it is held; MISS, CORRUPT, FAILED: it is not. */
  hold(keys: KeyBatch, options: RequestOptions = {}): Promise<HoldResult> {
    const link = this.#link;
    return link.request({ t: "hold", id: link.id(), keys: link.packed(keys) }, keys.count, options);
  }

  /** Takes back one hold of each key. False once the connection is over: holds then last until the server gives the engine up. */
  release(keys: KeyBatch): boolean {
    return this.#link.send({ t: "release", keys: this.#link.packed(keys) });
  }

  ping(): Promise<void> {
    return this.#link.request({ t: "ping", id: this.#link.id() }, 0, {});
  }

  /** Ends the connection and waits for its end. What is held stays held: another connection of the engine may release it. */
  async close(): Promise<void> {
    this.#link.end();
    await this.#link.closed;
  }
}

/**
 * A worker's connection. Promises of `gather` and `scatter` settle only when nothing touches the worker's memory any more for them: by the server's answer, or by the
 * end of the stream.
 */
export class DirectWorkerClient {
  readonly welcome: DirectGreeting["welcome"];
  /** The arena, for reading; whoever made the client closes it. */
  readonly arenaFd: number;
  readonly #link: Link;
  readonly #blocksPerChunk: number;

  private constructor(link: Link, { welcome, fds }: DirectGreeting, blocksPerChunk: number) {
    this.#link = link;
    this.welcome = welcome;
    this.arenaFd = fds[0] as number;
    this.#blocksPerChunk = blocksPerChunk;
  }

  /** Connects and has the server open the worker's memory.
   * @throws KvferryError as `KvferryClient.connect`. */
  static async connect(options: WorkerConnectOptions): Promise<DirectWorkerClient> {
    const link = new Link(options);
    const { engine, parts, partBytes, part, stores = true, memory, tensors, groups, blocksPerChunk } = options;
    const layout = { memory, tensors, groups, blocksPerChunk };
    const direct = { role: "worker", engine, parts, partBytes, part, stores, ...layout } as const;
    const hello = { ...helloFields(options, false), direct };
    const greeting = await greeted(link, options, () => link.greet(hello, options.fds ?? []));
    if (greeting.fds.length === 0) {
      link.end();
      throw new KvferryError("PROTOCOL", "the server sent no descriptor of its arena", { operation: "connect" });
    }
    return new DirectWorkerClient(link, greeting, blocksPerChunk);
  }

  /** False once the connection is over; every call rejects from then on. */
  get connected(): boolean {
    return !this.#link.over;
  }

  /** Settles (never rejects) when the connection is over, and with it every copy from and to this worker's memory. */
  get closed(): Promise<KvferryError | undefined> {
    return this.#link.closed;
  }

  /** Copies this worker's part of chunks into the server. STORED: it has been copied; PRESENT, DROPPED: it need not be; FAILED. */
  async gather(ticket: number, chunks: Chunks, options: RequestOptions = {}): Promise<TransferResult> {
    const link = this.#link;
    return link.request({ t: "gather", id: link.id(), ticket, ...this.#packed(chunks) }, chunks.keys.count, options);
  }

  /** Copies this worker's part of chunks that the engine holds out of the arena. LOADED, MISS (not held), FAILED. */
  async scatter(chunks: Chunks, options: RequestOptions = {}): Promise<TransferResult> {
    const link = this.#link;
    return link.request({ t: "scatter", id: link.id(), ...this.#packed(chunks) }, chunks.keys.count, options);
  }

  ping(): Promise<void> {
    return this.#link.request({ t: "ping", id: this.#link.id() }, 0, {});
  }

  /** Ends the connection and waits until the server has ended its copies and the stream. */
  async close(): Promise<void> {
    this.#link.end();
    await this.#link.closed;
  }

  #packed({ keys, groups, blocks }: Chunks): { keys: Uint8Array; groups: Uint32Array; blocks: Uint32Array } {
    if (groups.length !== keys.count || blocks.length !== keys.count * this.#blocksPerChunk) {
      throw new KvferryError(
        "INVALID_ARGUMENT",
        `${groups.length} groups and ${blocks.length} blocks for ${keys.count} keys of ${this.#blocksPerChunk} blocks`,
      );
    }
    return { keys: this.#link.packed(keys), groups, blocks };
  }
}

async function greeted(
  link: Link,
  { transport, socket }: DirectConnectOptions,
  greet: () => Promise<Greeting>,
): Promise<DirectGreeting> {
  if (transport === undefined && socket === undefined) {
    throw new KvferryError("INVALID_ARGUMENT", "connect needs `socket` or `transport`");
  }
  await link.open(transport ?? nativeTransport(socket as string));
  const { welcome, fds } = await greet();
  const { direct } = welcome;
  if (direct !== undefined) return { welcome: { ...welcome, direct }, fds };
  link.end();
  throw new KvferryError("UNSUPPORTED", "the server does not know direct mode: update kvferry", {
    operation: "connect",
  });
}

function helloFields(options: DirectConnectOptions, events: boolean): HelloFields {
  const { namespace, keyBytes, blockBytes, client, vllmFs } = options;
  const identity = { version: PROTOCOL_VERSION, client: identityOf(client), namespace, keyBytes, blockBytes };
  return { t: "hello", ...identity, vllmFs: vllmFs ?? null, events };
}

import { randomBytes } from "node:crypto";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type KeyBatch, type NamespaceFields, packedKeys } from "@kvferry/core";
import { closeFd, connectUnix, createRegion, type MappedRegion, type UnixConnection } from "@kvferry/native";
import {
  type ClientMessage,
  decodeServerMessage,
  encodeMessage,
  FRAME_BYTES_MAX,
  FrameDecoder,
  type HelloMessage,
  KvferryClient,
  type ServerMessage,
  type VllmFsNames,
} from "@kvferry/protocol";
import { onTestFinished } from "vitest";
import { type RunningServer, type ServerConfig, type ServerOptions, startServer } from "../src/index.js";

export const KEY_BYTES = 36;
export const BLOCK_BYTES = 16_384;
export const SLOTS = 64;
/** Hostile clients make many namespaces, and each has hundreds of folders. */
const CLEANUP_MS_MAX = 120_000;

export const namespace: NamespaceFields = {
  model: "facebook/opt-125m",
  weights: "00112233445566778899aabbccddeeff",
  dtype: "bfloat16",
  kvDtype: "auto",
  layout: "vllm-chunk-1",
  tokensPerHash: 16,
  blocksPerChunk: 1,
  groups: [{ tokensPerBlock: 16, layers: ["model.layers.0.attn"] }],
  parallel: null,
  engine: "vllm",
  engineVersion: "0.31.0",
  formatVersion: 1,
  tenant: "",
};

/** A folder that goes away with the test. */
export function scratch(): string {
  const folder = mkdtempSync(join(tmpdir(), "kvferry-server-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }), CLEANUP_MS_MAX);
  return folder;
}

export interface TestServer {
  readonly server: RunningServer;
  readonly folder: string;
  readonly root: string;
  readonly socket: string;
}

/** A server in this process, over a folder of its own. */
export async function serve(config: ServerConfig = {}, options: ServerOptions = {}): Promise<TestServer> {
  const folder = scratch();
  const root = join(folder, "blocks");
  const socket = join(folder, "kvferry.sock");
  const server = await startServer(
    { socket, http: "off", tiers: [{ backend: "posix", root }], drainTimeoutMs: 2000, ...config },
    options,
  );
  onTestFinished(async () => {
    await server.close();
  });
  return { server, folder, root, socket };
}

export interface TestClient {
  readonly client: KvferryClient;
  readonly region: MappedRegion;
}

export interface ClientOptions {
  readonly namespace?: NamespaceFields;
  readonly rows?: number;
  readonly blockBytes?: number;
  readonly onRemoved?: (keys: KeyBatch, reason: string) => void;
  readonly onDrain?: () => void;
  readonly vllmFs?: VllmFsNames;
}

/** A client with a region that is passed by its descriptor. */
export async function connect(socket: string, options: ClientOptions = {}): Promise<TestClient> {
  const { rows = SLOTS, blockBytes = BLOCK_BYTES, ...rest } = options;
  const region = createRegion({ rows, rowBytes: blockBytes });
  const client = await KvferryClient.connect({ socket, namespace, keyBytes: KEY_BYTES, region, ...rest });
  onTestFinished(async () => {
    await client.close();
    region.close();
  });
  return { client, region };
}

export function randomKeys(count: number): KeyBatch {
  return packedKeys(randomBytes(count * KEY_BYTES), KEY_BYTES);
}

/** Fills slots with bytes that follow from their key, so that a block under another key is seen. */
export function fill(
  region: MappedRegion,
  keys: KeyBatch,
  slots: readonly number[],
  blockBytes: number = BLOCK_BYTES,
): void {
  for (const [i, slot] of slots.entries()) {
    region.bytes.set(patternOf(keys, i, blockBytes), slot * region.rowBytes);
  }
}

/** Whether a slot holds the bytes of key `index`. */
export function holds(
  region: MappedRegion,
  keys: KeyBatch,
  index: number,
  slot: number,
  blockBytes: number = BLOCK_BYTES,
): boolean {
  const bytes = region.bytes.subarray(slot * region.rowBytes, slot * region.rowBytes + blockBytes);
  return Buffer.compare(bytes, patternOf(keys, index, blockBytes)) === 0;
}

function patternOf(keys: KeyBatch, index: number, blockBytes: number): Uint8Array {
  return Buffer.alloc(blockBytes, keys.bytes.subarray(index * keys.stride, (index + 1) * keys.stride));
}

export function range(count: number, from = 0): number[] {
  return Array.from({ length: count }, (_, i) => from + i);
}

/** A connection that can send anything. */
export class RawClient {
  readonly received: ServerMessage[] = [];
  readonly closed: Promise<void>;
  isClosed = false;
  readonly connection: UnixConnection;
  readonly #decoder = new FrameDecoder(FRAME_BYTES_MAX);
  #wake: () => void = () => {};

  constructor(socket: string) {
    let resolveClosed!: () => void;
    this.closed = new Promise((resolve) => {
      resolveClosed = resolve;
    });
    this.connection = connectUnix(socket, {
      onData: (bytes, fds) => {
        for (const fd of fds) closeFd(fd);
        this.#decoder.push(bytes);
        for (let body = this.#decoder.next(); body; body = this.#decoder.next()) {
          this.received.push(decodeServerMessage(body));
        }
        this.#wake();
      },
      onClose: () => {
        this.isClosed = true;
        resolveClosed();
        this.#wake();
      },
    });
  }

  send(message: ClientMessage, fds: readonly number[] = []): void {
    this.connection.send(encodeMessage(message), fds);
  }

  /** The next message that fits, taken out; undefined when the connection ends first. */
  async next<T extends ServerMessage["t"]>(t: T): Promise<Extract<ServerMessage, { t: T }> | undefined> {
    for (;;) {
      const at = this.received.findIndex((each) => each.t === t);
      if (at >= 0) return this.received.splice(at, 1)[0] as Extract<ServerMessage, { t: T }>;
      if (this.isClosed) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

export function helloFor(changes: Partial<HelloMessage> = {}): HelloMessage {
  return {
    t: "hello",
    version: 1,
    client: { name: "test", version: "1", instance: "raw" },
    namespace,
    keyBytes: KEY_BYTES,
    blockBytes: BLOCK_BYTES,
    regions: [{ bytes: SLOTS * BLOCK_BYTES }],
    fragments: [{ region: 0, offset: 0, stride: BLOCK_BYTES, bytes: BLOCK_BYTES }],
    slots: SLOTS,
    vllmFs: null,
    events: false,
    ...changes,
  };
}

/** A raw client that has been welcomed. */
export async function welcomed(
  socket: string,
  changes: Partial<HelloMessage> = {},
): Promise<{ raw: RawClient; region: MappedRegion }> {
  const region = createRegion({ rows: SLOTS, rowBytes: BLOCK_BYTES });
  const raw = new RawClient(socket);
  onTestFinished(() => {
    raw.connection.close();
    region.close();
  });
  raw.send(helloFor(changes), [region.fd]);
  const welcome = await raw.next("welcome");
  if (welcome === undefined) throw new Error(`not welcomed: ${JSON.stringify(raw.received)}`);
  return { raw, region };
}

/** Descriptors that this process has open. */
export function openDescriptors(): number {
  return readdirSync("/proc/self/fd").length;
}

export async function until(condition: () => boolean | Promise<boolean>, timeoutMs = 5000): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error("it did not happen in time");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** A port that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await until(() => server.listening);
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

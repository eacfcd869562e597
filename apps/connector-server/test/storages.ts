// Storages of every kind that blocks are copied between, filled and read by their own backends.
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { NvmeBackend } from "@kvferry/backend-nvme";
import { PosixBackend } from "@kvferry/backend-posix";
import { S3Backend } from "@kvferry/backend-s3";
import {
  createMemoryRegion,
  createNamespace,
  type KeyBatch,
  keyAt,
  keyGroup,
  keyHex,
  LookupState,
  type Namespace,
  type NamespaceFields,
  type OffloadBackend,
  Outcome,
} from "@kvferry/core";
import { type S3Server, startS3Server } from "../../../scripts/lib/s3-servers.mjs";
import { BLOCK_BYTES, KEY_BYTES, namespace, range, scratch } from "./helpers.js";

export const NAMESPACE: Namespace = createNamespace(namespace);
const VLLM_FS: { readonly base: string; readonly rank: number; readonly config: string } = {
  base: "facebook_opt-125m_0123456789ab",
  rank: 0,
  config: '{"model_name": "m"}',
};

export interface TestStorage {
  /** FROM or TO of the command. */
  readonly argument: string;
  readonly env: NodeJS.ProcessEnv;
  /** A backend of the one namespace; whoever opens it closes it. */
  open(): Promise<OffloadBackend>;
}

export function posixStorage(root: string = join(scratch(), "posix")): TestStorage {
  return { argument: `posix:${root}`, env: {}, open: () => opened(new PosixBackend({ root })) };
}

export function nvmeStorage(capacityBytes: number = 64 * 2 ** 20, path: string = join(scratch(), "nvme")): TestStorage {
  return {
    argument: `nvme:${path}?capacity=${capacityBytes}`,
    env: {},
    open: () => opened(new NvmeBackend({ path, capacityBytes })),
  };
}

/** In vLLM's directory, which an engine with kvferry has used once. */
export async function vllmStorage(
  root: string = join(scratch(), "vllm"),
  fields: Partial<NamespaceFields> = {},
): Promise<TestStorage> {
  const owner = createNamespace({ ...namespace, ...fields });
  const open = () => opened(new PosixBackend({ root, layout: "vllm-fs", adopt: true, vllmFs: VLLM_FS }), owner);
  await (await open()).close();
  return { argument: `posix:${root}?layout=vllm-fs&adopt=true`, env: {}, open };
}

/** The files that vLLM's own fs tier would have written: payloads, and nothing else. */
export function leaveVllmFiles(root: string, keys: KeyBatch): void {
  for (const i of range(keys.count)) {
    const key = keyAt(keys, i);
    const hash = keyHex(key).slice(0, -8);
    const folder = `${VLLM_FS.base}_r${VLLM_FS.rank}/${hash.slice(0, 3)}/${hash.slice(3, 5)}_g${keyGroup(key)}`;
    const path = join(root, folder, `${hash}.bin`);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, payloadOf(key));
  }
}

let buckets = 0;

/** A bucket of its own on a server that a test has started. */
export function s3Storage(server: S3Server): TestStorage {
  const { endpoint, region, credentials, data } = server;
  const bucket = `kv-copy-${process.pid}-${buckets++}`;
  mkdirSync(join(data, "objects", bucket)); // versitygw: a folder is a bucket
  const env = {
    AWS_ACCESS_KEY_ID: credentials.accessKeyId,
    AWS_SECRET_ACCESS_KEY: credentials.secretAccessKey,
    AWS_EC2_METADATA_DISABLED: "true",
  };
  Object.assign(process.env, env);
  return {
    argument: `s3:${bucket}/cache?endpoint=${endpoint}&region=${region}`,
    env,
    open: () => opened(new S3Backend({ bucket, prefix: "cache", endpoint, region })),
  };
}

export const startVersitygw = (): Promise<S3Server> => startS3Server("versitygw");

/** Stores the blocks of these keys, each with bytes that follow from its key. */
export async function put(storage: TestStorage, keys: KeyBatch): Promise<void> {
  const backend = await storage.open();
  const region = createMemoryRegion(keys.count, BLOCK_BYTES);
  for (const i of range(keys.count)) region.bytes.set(payloadOf(keyAt(keys, i)), i * BLOCK_BYTES);
  const { outcomes } = await backend.store({ keys, region, slots: Uint32Array.from(range(keys.count)) });
  await backend.close();
  if (outcomes.some((outcome) => outcome !== Outcome.STORED)) throw new Error(`not stored: ${outcomes}`);
}

/** Positions of the keys whose blocks are there, to the byte.
 * @throws for a block with other bytes. */
export async function sound(storage: TestStorage, keys: KeyBatch): Promise<number[]> {
  const backend = await storage.open();
  const region = createMemoryRegion(keys.count, BLOCK_BYTES);
  const { outcomes } = await backend.load({ keys, region, slots: Uint32Array.from(range(keys.count)) });
  await backend.close();
  const loaded = range(keys.count).filter((i) => outcomes[i] === Outcome.LOADED);
  for (const i of loaded) {
    const bytes = region.bytes.subarray(i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES);
    if (Buffer.compare(bytes, payloadOf(keyAt(keys, i))) !== 0) throw new Error(`block ${i} has other bytes`);
  }
  return loaded;
}

/** Positions of the keys that a storage says it has. */
export async function present(storage: TestStorage, keys: KeyBatch): Promise<number[]> {
  const backend = await storage.open();
  const states = await backend.lookup(keys);
  await backend.close();
  return range(keys.count).filter((i) => states[i] === LookupState.HIT);
}

function payloadOf(key: Uint8Array): Uint8Array {
  return Buffer.alloc(BLOCK_BYTES, key);
}

async function opened<T extends OffloadBackend>(backend: T, owner: Namespace = NAMESPACE): Promise<T> {
  await backend.open({ namespace: owner, keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES });
  return backend;
}

import {
  type Amount,
  type BlockFolder,
  type BlockLeaf,
  type BlockRoot,
  type FolderBlocks,
  type KeyBatch,
  keyAt,
  NO_AMOUNT,
  Outcome,
  plusAmount,
  storedBlockBytes,
} from "@kvferry/core";
import { pages, shardsAfter } from "../listing.js";
import { ObjectNames } from "../names.js";
import { BlockRemover } from "../remove-blocks.js";
import type { ListedObject, RequestOptions, S3Requests } from "../requests.js";
import { namespaceFolders, namespaceRecord, rootOf } from "../stored-namespaces.js";

const OPTIONS: RequestOptions = { priority: "load" };
/** What a key says of its length where a namespace has no record that can be read. */
const BLOCK_NAME = /\/([0-9a-f]{2})\/(\1[0-9a-f]*)$/;

/** Every namespace below a prefix, by what is found there and not by what this process serves. */
export class ObjectBlockRoot implements BlockRoot {
  readonly #requests: S3Requests;
  readonly #prefix: string;
  readonly #folders: Map<string, ObjectBlockFolder> = new Map();

  constructor(requests: S3Requests, prefix: string) {
    this.#requests = requests;
    this.#prefix = prefix;
  }

  async folders(): Promise<readonly BlockFolder[]> {
    for await (const digest of namespaceFolders(this.#requests, rootOf(this.#prefix))) {
      if (this.#folders.has(digest)) continue;
      const facts = await this.#factsOf(digest);
      if (facts === undefined) continue;
      const names = new ObjectNames(this.#prefix, { digestHex: digest }, facts.keyBytes);
      this.#folders.set(digest, new ObjectBlockFolder(this.#requests, names, { name: digest, ...facts }));
    }
    return [...this.#folders.values()];
  }

  async #factsOf(digest: string): Promise<Omit<FolderFacts, "name"> | undefined> {
    const root = rootOf(this.#prefix);
    const record = await namespaceRecord(this.#requests, root, digest);
    if (record !== undefined) {
      const { keyBytes, blockBytes, namespace } = record;
      return { keyBytes, fileBytes: storedBlockBytes(blockBytes), tenant: namespace.fields.tenant };
    }
    const { objects } = await this.#requests.list({ prefix: `${root}${digest}/` }, OPTIONS);
    for (const { name, bytes } of objects) {
      const hex = BLOCK_NAME.exec(name)?.[2];
      if (hex !== undefined && hex.length % 2 === 0) return { keyBytes: hex.length / 2, fileBytes: bytes, tenant: "" };
    }
    return undefined;
  }
}

interface FolderFacts {
  readonly name: string;
  readonly keyBytes: number;
  readonly fileBytes: number;
  readonly tenant: string;
}

class ObjectBlockFolder implements BlockFolder {
  readonly name: string;
  readonly tenant: string;
  readonly keyBytes: number;
  readonly fileBytes: number;
  readonly #requests: S3Requests;
  readonly #names: ObjectNames;
  readonly #remover: BlockRemover;

  constructor(requests: S3Requests, names: ObjectNames, { name, tenant, keyBytes, fileBytes }: FolderFacts) {
    this.name = name;
    this.tenant = tenant;
    this.keyBytes = keyBytes;
    this.fileBytes = fileBytes;
    this.#requests = requests;
    this.#names = names;
    this.#remover = new BlockRemover(requests);
  }

  async *leaves(): AsyncGenerator<BlockLeaf> {
    const { root } = this.#names;
    const first = await this.#requests.list({ prefix: root }, OPTIONS);
    yield { list: async () => this.#blocksAmong(first.objects) };
    for (const { prefix, startAfter } of shardsAfter(first, root)) {
      yield { list: async () => this.#blocksAmong(await allOf(this.#requests, prefix, startAfter)) };
    }
  }

  /** Unfinished uploads are no objects: a lifecycle rule is for those. */
  async besides(): Promise<Amount> {
    const objects = await allOf(this.#requests, this.#names.quarantine);
    return objects.reduce((sum, { bytes }) => plusAmount(sum, { bytes, files: 1 }), NO_AMOUNT);
  }

  async exists(keys: KeyBatch): Promise<Uint8Array> {
    const heads = Array.from({ length: keys.count }, (_, i) =>
      this.#requests.head(this.#names.block(keyAt(keys, i)), OPTIONS),
    );
    return Uint8Array.from(await Promise.all(heads), (head) => (head === undefined ? 0 : 1));
  }

  /** S3 does not say whether there was an object. It makes no difference: whoever moves a block elsewhere has room for the copy. */
  async remove(keys: KeyBatch): Promise<Uint8Array> {
    const names = Array.from({ length: keys.count }, (_, i) => this.#names.block(keyAt(keys, i)));
    const errors = await this.#remover.remove(names, OPTIONS);
    return Uint8Array.from(names, (name) => (errors.has(name) ? Outcome.FAILED : Outcome.REMOVED));
  }

  async close(): Promise<void> {}

  #blocksAmong(objects: readonly ListedObject[]): FolderBlocks {
    const { keyBytes } = this;
    const { description, quarantine } = this.#names;
    const keys = new Uint8Array(objects.length * keyBytes);
    const bytes = new Float64Array(objects.length);
    const modifiedAtMs = new Float64Array(objects.length);
    let count = 0;
    let others = NO_AMOUNT;
    for (const object of objects) {
      if (object.name === description || object.name.startsWith(quarantine)) continue;
      const key = this.#names.keyOf(object.name);
      if (key === undefined) {
        others = plusAmount(others, { bytes: object.bytes, files: 1 });
        continue;
      }
      keys.set(key, count * keyBytes);
      bytes[count] = object.bytes;
      modifiedAtMs[count] = object.modifiedAtMs;
      count++;
    }
    return {
      keys: { bytes: keys.subarray(0, count * keyBytes), stride: keyBytes, count },
      bytes,
      modifiedAtMs,
      others,
    };
  }
}

async function allOf(requests: S3Requests, prefix: string, startAfter?: string): Promise<ListedObject[]> {
  const found: ListedObject[] = [];
  for await (const page of pages(requests, prefix, startAfter, OPTIONS)) found.push(...page);
  return found;
}

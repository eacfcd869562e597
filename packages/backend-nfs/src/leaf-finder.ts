import { constants } from "node:os";
import type { BlockFinder, Presence } from "@kvferry/backend-posix";
import { type KeyBatch, KvferryError, keyAt, selectKeys, toKvferryError } from "@kvferry/core";
import type { FileStore, LayoutName } from "@kvferry/native";
import { Leaf, STAMP_NUMBERS, stampAt } from "./leaf.js";
import { foldersAbove, leafFolder } from "./leaf-folder.js";
import { Toucher } from "./toucher.js";

/** Missing keys that are remembered, about 80 bytes each; more, and all are forgotten. */
const MISSING_KEYS_MAX = 1 << 20;
/** Folders of the layout vllm-fs that are remembered (kvferry has 256). */
const LEAVES_MAX = 1 << 16;
/** A listing costs about four round trips; so many keys of a folder, or fewer, are asked for one by one. */
const ASKED_ALONE_MAX = 4;
/** Names in a listing that cost the server as much as one key asked for. */
const NAMES_A_KEY = 64;
/** What it is worth to ask for a key in the way that is always right, in keys asked for one by one. */
const DOUBTFUL_KEY_WORTH = 16;
/** Keys that one thread asks for: a round trip each. */
const KEYS_A_CALL = 32;

export interface LeafFinderOptions {
  readonly layout: LayoutName;
  readonly files: Pick<FileStore, "exists" | "keysIn" | "stampFolders">;
  readonly presence: Presence;
  /** A block that another host has stored is found by every lookup that begins so long after. */
  readonly negativeTtlMs: number;
  /** More than a tick of the clock by which the server stamps folders. */
  readonly touchDelayMs: number;
  /** Monotonic. */
  nowMs(): number;
}

interface Group {
  readonly leaf: Leaf;
  readonly positions: number[];
}

/**
 * Finds blocks of other hosts in a folder whose kernel keeps saying that they are not there (docs/nfs.md, "How fresh blocks are found"). A folder
 * that holds blocks is asked for its stamp now and then, one round trip. As long as the stamp stays, what is missing stays missing, from memory. When
 * it has changed the kernel gives up what it cached of the names too, and the keys are asked for anew.
 */
export class LeafFinder implements BlockFinder {
  readonly #options: LeafFinderOptions;
  readonly #leaves: Map<string, Leaf> = new Map();
  readonly #stopping: AbortController = new AbortController();
  readonly #toucher: Toucher;
  /** How long a stamp is believed. The rest of `negativeTtlMs` is the storing host's, to make its blocks visible. */
  readonly #freshMs: number;
  #missingKeys = 0;

  constructor(options: LeafFinderOptions) {
    this.#options = options;
    this.#freshMs = options.negativeTtlMs / 2;
    this.#toucher = new Toucher({ files: options.files, delayMs: options.touchDelayMs });
  }

  knowsMissing(keys: KeyBatch, positions: readonly number[]): boolean {
    const now = this.#options.nowMs();
    const ageing = new Set<Leaf>();
    for (const position of positions) {
      const key = keyAt(keys, position);
      const leaf = this.#leaves.get(leafFolder(this.#options.layout, key));
      if (leaf === undefined || !leaf.knowsMissing(key)) return false;
      const age = now - leaf.checkedAtMs;
      if (age >= this.#freshMs) return false;
      if (age > this.#freshMs / 2 && !leaf.refreshing) ageing.add(leaf);
    }
    if (ageing.size > 0) void this.#refresh([...ageing]);
    return true;
  }

  async find(keys: KeyBatch, signal: AbortSignal | undefined): Promise<Uint8Array> {
    const found = new Uint8Array(keys.count);
    const groups = this.#groups(keys);
    const now = this.#options.nowMs();
    const leaves = groups.map(({ leaf }) => leaf);
    await this.#check(
      leaves.filter(({ checkedAtMs }) => now - checkedAtMs >= this.#freshMs),
      signal,
    );
    await this.#ask(this.#withoutKnown(groups, keys, found), keys, found, signal);
    return found;
  }

  noteStored(keys: KeyBatch): void {
    for (const { leaf } of this.#groups(keys)) {
      this.#toucher.touchLater([leaf.folder]);
      // perhaps made for these blocks; those of our own layout are made before anybody can ask
      if (!leaf.stored && this.#options.layout !== "kvferry") this.#toucher.touchLater(foldersAbove(leaf.folder));
      leaf.stored = true;
    }
  }

  forget(): void {
    for (const leaf of this.#leaves.values()) leaf.forget();
    this.#missingKeys = 0;
  }

  async close(): Promise<void> {
    this.#stopping.abort();
    await this.#toucher.close();
  }

  /** Positions of the keys by the folder that their blocks are in. */
  #groups(keys: KeyBatch): Group[] {
    const groups = new Map<string, Group>();
    for (let i = 0; i < keys.count; i++) {
      const folder = leafFolder(this.#options.layout, keyAt(keys, i));
      const group = groups.get(folder);
      if (group === undefined) groups.set(folder, { leaf: this.#leaf(folder), positions: [i] });
      else group.positions.push(i);
    }
    return [...groups.values()];
  }

  #leaf(folder: string): Leaf {
    let leaf = this.#leaves.get(folder);
    if (leaf !== undefined) return leaf;
    if (this.#leaves.size >= LEAVES_MAX) {
      this.#leaves.clear();
      this.#missingKeys = 0;
    }
    leaf = new Leaf(folder);
    this.#leaves.set(folder, leaf);
    return leaf;
  }

  /** Before they are too old to be believed, so that lookups are answered from memory meanwhile. */
  async #refresh(leaves: readonly Leaf[]): Promise<void> {
    for (const leaf of leaves) leaf.refreshing = true;
    try {
      await this.#check(
        leaves,
        AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(10 * this.#options.negativeTtlMs)]),
      );
    } catch {
      // the lookup that finds them too old asks again, and tells what is wrong
    } finally {
      for (const leaf of leaves) leaf.refreshing = false;
    }
  }

  /** Asks the server for the folders' stamps. */
  async #check(leaves: readonly Leaf[], signal: AbortSignal | undefined): Promise<void> {
    if (leaves.length === 0) return;
    const { files, nowMs } = this.#options;
    const sentAtMs = nowMs();
    const folders = leaves.map(({ folder }) => folder);
    const stamps = await files.stampFolders(folders, false, signal);
    let failed: KvferryError | undefined;
    for (const [i, leaf] of leaves.entries()) {
      const errno = Number(stamps[i * STAMP_NUMBERS]);
      if (errno === 0) leaf.note(stampAt(stamps, i), sentAtMs);
      else failed ??= failure(errno, leaf.folder);
    }
    if (failed !== undefined) throw failed;
  }

  /** What still has to be asked for; what other calls have found meanwhile is set in `found`. */
  #withoutKnown(groups: readonly Group[], keys: KeyBatch, found: Uint8Array): Group[] {
    const left: Group[] = [];
    for (const { leaf, positions } of groups) {
      const unknown = positions.filter((position) => {
        const key = keyAt(keys, position);
        if (this.#options.presence.has(key)) found[position] = 1;
        return found[position] === 0 && !leaf.knowsMissing(key);
      });
      if (unknown.length > 0) left.push({ leaf, positions: unknown });
    }
    return left;
  }

  /** One by one, or by a listing where many keys of a folder are unknown. */
  async #ask(
    groups: readonly Group[],
    keys: KeyBatch,
    found: Uint8Array,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const alone: Group[] = [];
    const listings: Promise<void>[] = [];
    for (const group of groups) {
      if (this.#isWorthListing(group, keys)) listings.push(this.#list(group, keys, found, signal));
      else alone.push(group);
    }
    await Promise.all([...listings, this.#askAlone(alone, keys, found, signal)]);
  }

  #isWorthListing({ leaf, positions }: Group, keys: KeyBatch): boolean {
    if (this.#options.layout !== "kvferry") return false; // only the files tell whose they are
    let worth = 0;
    for (const position of positions) worth += leaf.isDoubtful(keyAt(keys, position)) ? DOUBTFUL_KEY_WORTH : 1;
    return worth > ASKED_ALONE_MAX && leaf.names <= worth * NAMES_A_KEY;
  }

  async #list(group: Group, keys: KeyBatch, found: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    const { leaf, positions } = group;
    const { files, presence } = this.#options;
    const { version } = leaf;
    const { removals } = presence;
    const bytes = await files.keysIn(leaf.folder, signal);
    const listed: KeyBatch = { bytes, stride: keys.stride, count: bytes.length / keys.stride };
    leaf.noteListed(listed.count);
    if (removals === presence.removals) {
      presence.addAll(listed);
      leaf.complete ||= version === leaf.version;
      for (const position of positions) found[position] = presence.has(keyAt(keys, position)) ? 1 : 0;
      return;
    }
    const names = new Set<string>();
    for (let i = 0; i < listed.count; i++) names.add(text(keyAt(listed, i)));
    for (const position of positions) found[position] = names.has(text(keyAt(keys, position))) ? 1 : 0;
  }

  async #askAlone(
    groups: readonly Group[],
    keys: KeyBatch,
    found: Uint8Array,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const versions = groups.map(({ leaf }) => leaf.version);
    const positions = groups.flatMap((group) => group.positions);
    const calls: Promise<void>[] = [];
    for (let from = 0; from < positions.length; from += KEYS_A_CALL) {
      calls.push(this.#exist(positions.slice(from, from + KEYS_A_CALL), keys, found, signal));
    }
    await Promise.all(calls);
    for (const [i, { leaf, positions: own }] of groups.entries()) {
      if (versions[i] !== leaf.version) continue;
      for (const position of own) if (found[position] === 0) this.#noteMissing(leaf, keyAt(keys, position));
    }
  }

  async #exist(
    positions: readonly number[],
    keys: KeyBatch,
    found: Uint8Array,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const there = await this.#options.files.exists(selectKeys(keys, positions).bytes, signal);
    for (const [i, position] of positions.entries()) {
      if (there[i] === 2)
        throw new KvferryError("IO", "the file system could not tell whether a block is there", {
          operation: "lookup",
        });
      found[position] = there[i] as number;
    }
  }

  #noteMissing(leaf: Leaf, key: Uint8Array): void {
    if (!leaf.noteMissing(key)) return;
    this.#missingKeys++;
    if (this.#missingKeys > MISSING_KEYS_MAX) this.forget();
  }
}

/** A key as a map's key. */
function text(key: Uint8Array): string {
  return Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString("latin1");
}

/** Node has no name for some errnos in its own errors; the constants have all. */
function failure(errno: number, folder: string): KvferryError {
  const code = Object.entries(constants.errno).find(([, number]) => number === errno)?.[0];
  const thrown = Object.assign(new Error(`cannot ask for the folder ${folder}: ${code ?? `errno ${errno}`}`), {
    code,
    errno: -errno,
  });
  return toKvferryError(thrown, "lookup", { folder });
}

import { type KeyBatch, keyAt, keyHex } from "@kvferry/core";
import type { FileStore } from "@kvferry/native";
import { leafFolder } from "../src/leaf-folder.js";

/** A stand-in for an NFS 3 server and the kernels of its clients, as far as names in folders go: what Linux does, seen in the guest. The worst
 * of it is modelled: a clock that stands still for a tick, folders whose size tells nothing, and kernels that cache misses for ever, also after the folder has
 * changed: Linux leaves it to chance whether it does, if the folder had changed unseen when the name was asked for. */
export class ModelServer {
  readonly folders: Map<string, { changedMs: number; readonly names: Set<string> }> = new Map();
  readonly #tickMs: number;
  readonly #nowMs: () => number;

  constructor(tickMs: number, nowMs: () => number) {
    this.#tickMs = tickMs;
    this.#nowMs = nowMs;
  }

  folder(name: string): { changedMs: number; readonly names: Set<string> } {
    const folder = this.folders.get(name) ?? { changedMs: this.#clock(), names: new Set() };
    this.folders.set(name, folder);
    return folder;
  }

  /** A name comes, goes, or the folder is touched. */
  change(name: string, change: (names: Set<string>) => void = () => {}): void {
    const folder = this.folder(name);
    change(folder.names);
    folder.changedMs = this.#clock();
  }

  #clock(): number {
    return Math.floor(this.#nowMs() / this.#tickMs) * this.#tickMs;
  }
}

/** The kernel of one client, behind the calls that the finder makes. */
export class ModelClient implements Pick<FileStore, "exists" | "keysIn" | "stampFolders"> {
  readonly requests: { getattr: number; lookup: number; listing: number; touch: number } = {
    getattr: 0,
    lookup: 0,
    listing: 0,
    touch: 0,
  };
  /** The errno that the server answers everything with. */
  failing = 0;
  readonly #server: ModelServer;
  readonly #keyBytes: number;
  /** The change time of each folder as this kernel knows it, and what it holds for missing because of that. */
  readonly #known: Map<string, { changedMs: number; missing: Set<string>; listed: string[] | undefined }> = new Map();
  /** Held for missing whatever becomes of the folder. */
  readonly #stuck: Set<string> = new Set();

  constructor(server: ModelServer, keyBytes: number) {
    this.#server = server;
    this.#keyBytes = keyBytes;
  }

  async stampFolders(folders: readonly string[], touch: boolean): Promise<BigInt64Array> {
    const stamps = new BigInt64Array(folders.length * 6);
    for (const [i, name] of folders.entries()) {
      await undefined; // others may act between any two requests
      if (this.failing !== 0) {
        stamps[i * 6] = BigInt(this.failing);
        continue;
      }
      if (touch) this.#touch(name);
      this.requests.getattr++;
      const changedNs = BigInt(this.#update(name).changedMs) * 1_000_000n;
      stamps[i * 6 + 1] = changedNs;
      stamps[i * 6 + 2] = changedNs;
    }
    return stamps;
  }

  async exists(keys: Uint8Array): Promise<Uint8Array> {
    const batch: KeyBatch = { bytes: keys, stride: this.#keyBytes, count: keys.length / this.#keyBytes };
    const found = new Uint8Array(batch.count);
    for (let i = 0; i < batch.count; i++) {
      await undefined;
      found[i] = this.failing === 0 ? Number(this.#lookup(keyAt(batch, i))) : 2;
    }
    return found;
  }

  async keysIn(folder: string): Promise<Uint8Array> {
    await undefined;
    this.requests.listing++;
    const known = this.#known.get(folder) ?? this.#update(folder);
    known.listed ??= [...this.#server.folder(folder).names]; // as long as the change time stays
    return Buffer.from(known.listed.join(""), "hex");
  }

  /** Stores a block; our own kernel knows of it. */
  store(key: Uint8Array): void {
    const folder = leafFolder("kvferry", key);
    this.#ownChange(folder, (names) => names.add(keyHex(key)));
    this.#known.get(folder)?.missing.delete(keyHex(key));
    this.#stuck.delete(keyHex(key));
  }

  #lookup(key: Uint8Array): boolean {
    const folder = leafFolder("kvferry", key);
    const known = this.#known.get(folder) ?? this.#update(folder);
    const name = keyHex(key);
    if (known.missing.has(name) || this.#stuck.has(name)) return false;
    this.requests.lookup++;
    if (this.#server.folder(folder).names.has(name)) return true;
    if (this.#server.folder(folder).changedMs === known.changedMs) known.missing.add(name);
    else this.#stuck.add(name);
    return false;
  }

  #touch(folder: string): void {
    this.requests.touch++;
    this.#ownChange(folder, () => {});
  }

  /** The answer tells the change time before and after: if only this client has changed the folder, its kernel goes on believing. */
  #ownChange(folder: string, change: (names: Set<string>) => void): void {
    const known = this.#known.get(folder);
    const before = this.#server.folder(folder).changedMs;
    this.#server.change(folder, change);
    if (known === undefined || known.changedMs !== before) return;
    known.changedMs = this.#server.folder(folder).changedMs;
    known.listed = undefined;
  }

  /** A GETATTR. */
  #update(folder: string): { changedMs: number; missing: Set<string>; listed: string[] | undefined } {
    const { changedMs } = this.#server.folder(folder);
    let known = this.#known.get(folder);
    if (known?.changedMs !== changedMs) {
      known = { changedMs, missing: new Set(), listed: undefined };
      this.#known.set(folder, known);
    }
    return known;
  }
}

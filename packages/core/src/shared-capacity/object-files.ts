import { KvferryError } from "../errors.js";
import type { CapacityFiles } from "./files.js";

/** The objects of one prefix in a storage that keeps objects whole. What one call has done, every call that begins later sees; a call that fails
 * may have worked, or do so within `CapacityPace.lateMs`. */
export interface CapacityObjects {
  /** In order of their names, however many requests that takes. */
  list(): Promise<readonly { readonly name: string; readonly bytes: number }[]>;
  /** Undefined if there is no such object. */
  get(name: string, offset: number, bytesMax: number): Promise<Uint8Array | undefined>;
  put(name: string, bytes: Uint8Array): Promise<void>;
  /** False if there is one. */
  create(name: string, bytes: Uint8Array): Promise<boolean>;
  remove(name: string): Promise<void>;
}

/** All versions of a file that a listing has shown; ascending. */
interface ListedFile {
  readonly versions: number[];
  /** Of the newest. */
  bytes: number;
}

const VERSION = /^(.+)~(\d{12})$/;
/** Files up to this length are read once a version. */
const KEPT_BYTES_MAX = 1 << 16;
/** Logs of one's own whose bytes are kept to append to them: one as a server, one as the leader, and those before them. */
const OWN_LOGS_MAX = 4;
const TRIES = 5;

/**
 * Files as objects that are written once: `<name>` as it was created, `<name>~<version>` each time that its one writer has replaced it. The newest version holds, so that a request
 * that the storage carries out late, after its writer has given it up and written anew, changes nothing: an object that were overwritten would go back to
 * what it was. Versions are of one length, so that a listing of several pages comes to the newer one later, and who reads knows by its listing what has not changed.
 */
export class ObjectFiles implements CapacityFiles {
  readonly #objects: CapacityObjects;
  #files: ReadonlyMap<string, ListedFile> = new Map();
  #listingsBegun = 0;
  #listingShown = 0;
  readonly #read: Map<string, { readonly version: number; readonly bytes: Uint8Array }> = new Map();
  /** Of one's own files: the version that was tried last. */
  readonly #tried: Map<string, number> = new Map();
  /** Of one's own files: versions below are of no use. */
  readonly #waste: Map<string, number> = new Map();
  readonly #removing: Set<string> = new Set();
  readonly #ownLogs: Map<string, Uint8Array> = new Map();

  constructor(objects: CapacityObjects) {
    this.#objects = objects;
  }

  async list(): Promise<string[]> {
    const number = ++this.#listingsBegun;
    const files = new Map<string, ListedFile>();
    for (const { name, bytes } of await this.#objects.list()) {
      const [, file = name, version = "0"] = VERSION.exec(name) ?? [];
      const known = files.get(file);
      if (known === undefined) files.set(file, { versions: [Number(version)], bytes });
      else {
        known.versions.push(Number(version));
        known.bytes = bytes;
      }
    }
    // of two at once the one that began later holds: who reads after it must not see what was before it
    if (number > this.#listingShown) {
      this.#listingShown = number;
      this.#files = files;
      for (const name of this.#read.keys()) if (!files.has(name)) this.#read.delete(name);
    }
    this.#clean(files);
    return [...files.keys()];
  }

  async read(name: string, offset: number, bytesMax: number): Promise<Uint8Array | undefined> {
    for (let i = 0; i < TRIES; i++) {
      const file = this.#files.get(name);
      if (file === undefined) return undefined;
      const version = file.versions.at(-1) as number;
      const kept = this.#read.get(name);
      if (kept?.version === version) return kept.bytes.subarray(offset, offset + bytesMax);
      if (offset >= file.bytes) return new Uint8Array(0);
      const bytes = await this.#objects.get(objectName(name, version), offset, Math.min(bytesMax, file.bytes - offset));
      if (bytes !== undefined) {
        if (offset === 0 && bytes.length === file.bytes && bytes.length <= KEPT_BYTES_MAX) {
          this.#read.set(name, { version, bytes });
        }
        return bytes;
      }
      await this.list(); // it has been replaced since, twice
    }
    throw new KvferryError("BUSY", `the file '${name}' of the capacity is replaced faster than it can be read`);
  }

  async replace(name: string, bytes: Uint8Array): Promise<void> {
    const version = (this.#tried.get(name) ?? 0) + 1;
    this.#tried.set(name, version); // never again, as it may appear later
    await this.#objects.put(objectName(name, version), bytes);
    this.#waste.set(name, version - 1); // the last but one stays for those who have listed it just now
  }

  create(name: string, bytes: Uint8Array): Promise<boolean> {
    return this.#objects.create(name, bytes);
  }

  /** Only at the end of a log that was written by this object, or from an earlier place in it on. */
  async write(name: string, offset: number, bytes: Uint8Array): Promise<void> {
    const before = this.#ownLogs.get(name) ?? new Uint8Array(0);
    if (offset > before.length) throw new KvferryError("INTERNAL", `a log of the capacity has a gap at ${offset}`);
    const whole = Buffer.concat([before.subarray(0, offset), bytes]);
    await this.replace(name, whole);
    this.#ownLogs.set(name, whole);
    for (const old of this.#ownLogs.keys()) {
      if (this.#ownLogs.size <= OWN_LOGS_MAX) break;
      this.#ownLogs.delete(old);
    }
  }

  async remove(name: string): Promise<void> {
    if (this.#tried.has(name)) this.#waste.set(name, Number.POSITIVE_INFINITY);
    for (const version of this.#files.get(name)?.versions ?? []) {
      await this.#objects.remove(objectName(name, version));
    }
  }

  /** Removes what is left of one's own files, also what has come late. Nobody waits for it. */
  #clean(files: ReadonlyMap<string, ListedFile>): void {
    for (const [name, below] of this.#waste) {
      const file = files.get(name);
      for (const version of file?.versions ?? []) {
        // what was created says to all times that its name is taken
        if (version >= below || (version === 0 && below !== Number.POSITIVE_INFINITY)) continue;
        void this.#removeWaste(objectName(name, version));
      }
      if (file === undefined && below === Number.POSITIVE_INFINITY) {
        this.#waste.delete(name);
        this.#tried.delete(name);
      }
    }
  }

  async #removeWaste(object: string): Promise<void> {
    if (this.#removing.has(object)) return;
    this.#removing.add(object);
    try {
      await this.#objects.remove(object);
    } catch {
      // the next listing shows it again
    } finally {
      this.#removing.delete(object);
    }
  }
}

function objectName(name: string, version: number): string {
  return version === 0 ? name : `${name}~${String(version).padStart(12, "0")}`;
}

import { keyHex, type Namespace } from "@kvferry/core";

const DIGITS_OF_TIME = 13;

/** The object keys of one namespace; docs/s3.md, "Objects". */
export class ObjectNames {
  /** Before all of them, with a slash at its end. */
  readonly root: string;
  readonly description: string;
  readonly quarantine: string;
  readonly #keyBytes: number;
  readonly #pattern: RegExp = /^([0-9a-f]{2})\/(\1[0-9a-f]*)$/;

  constructor(prefix: string, namespace: Pick<Namespace, "digestHex">, keyBytes: number) {
    this.root = `${prefix === "" ? "" : `${prefix}/`}${namespace.digestHex}/`;
    this.description = `${this.root}namespace.json`;
    this.quarantine = `${this.root}quarantine/`;
    this.#keyBytes = keyBytes;
  }

  block(key: Uint8Array): string {
    const hex = keyHex(key);
    return `${this.root}${hex.slice(0, 2)}/${hex}`;
  }

  /** The key of a block's object, or undefined for an object that is no block of this namespace. */
  keyOf(name: string): Uint8Array | undefined {
    if (!name.startsWith(this.root)) return undefined;
    const hex = this.#pattern.exec(name.slice(this.root.length))?.[2];
    return hex?.length === this.#keyBytes * 2 ? Buffer.from(hex, "hex") : undefined;
  }

  /** Names of later times come after those of earlier ones. */
  quarantined(key: Uint8Array, nowMs: number): string {
    return `${this.quarantine}${String(nowMs).padStart(DIGITS_OF_TIME, "0")}-${keyHex(key)}`;
  }
}

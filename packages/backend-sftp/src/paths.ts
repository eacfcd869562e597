import { keyHex, type Namespace } from "@kvferry/core";

/** The paths of one namespace below a root: the layout `kvferry` of docs/block-format.md, so that backend-posix can serve the same folder. */
export class BlockPaths {
  readonly root: string;
  readonly namespace: string;
  readonly description: string;
  readonly blocks: string;
  /** One folder a writer. */
  readonly writers: string;
  readonly quarantine: string;
  readonly #keyBytes: number;

  constructor(root: string, namespace: Namespace, keyBytes: number) {
    this.root = root;
    this.namespace = `${root === "/" ? "" : root}/${namespace.digestHex}`;
    this.description = `${this.namespace}/namespace.json`;
    this.blocks = `${this.namespace}/blocks`;
    this.writers = `${this.namespace}/tmp`;
    this.quarantine = `${this.namespace}/quarantine`;
    this.#keyBytes = keyBytes;
  }

  block(key: Uint8Array): string {
    const hex = keyHex(key);
    return `${this.blocks}/${hex.slice(0, 2)}/${hex}.kvb`;
  }

  quarantined(key: Uint8Array, nowMs: number, count: number): string {
    return `${this.quarantine}/${keyHex(key)}.${nowMs}-${count}.kvb`;
  }

  /** The key of a file in a leaf folder ("00" to "ff"), or undefined for a file that is no block of this namespace, or not at its place. */
  keyOf(leaf: string, name: string): Uint8Array | undefined {
    const digits = this.#keyBytes * 2;
    if (name.length !== digits + 4 || !name.endsWith(".kvb") || !name.startsWith(leaf)) return undefined;
    const hex = name.slice(0, digits);
    return /^[0-9a-f]+$/.test(hex) ? Buffer.from(hex, "hex") : undefined;
  }
}

/** The names of all leaf folders. */
export const LEAVES: readonly string[] = Array.from({ length: 256 }, (_, i) => i.toString(16).padStart(2, "0"));

import { keyHex } from "../../src/index.js";

interface ModelBlock {
  tiers: number;
  bytes: number;
  tick: number;
  uses: number;
  /** Hex of its parent, here or gone. */
  parent: string | undefined;
}

const TICK_MS = 125;

/** What PrefixIndex shall do, in the plainest way: maps by the keys' hex, everything else counted anew each time. */
export class Model {
  readonly blocks: Map<string, ModelBlock> = new Map();
  insert(keys: readonly Uint8Array[], tier: number, bytes: number, nowMs: number, parent?: Uint8Array): number {
    const before = this.blocks.size;
    const tick = Math.floor(nowMs / TICK_MS);
    const last = new Map<string, string>();
    if (parent !== undefined) last.set(groupOf(keyHex(parent)), keyHex(parent));
    for (const key of keys) {
      const hex = keyHex(key);
      const block = this.blocks.get(hex);
      if (block === undefined) this.blocks.set(hex, { tiers: tier, bytes, tick, uses: 0, parent: undefined });
      else Object.assign(block, { tiers: block.tiers | tier, bytes, tick: Math.max(block.tick, tick) });
      this.#link(hex, last.get(groupOf(hex)));
      last.set(groupOf(hex), hex);
    }
    return this.blocks.size - before;
  }

  /** `known`: what the caller had found. */
  observe(keys: readonly Uint8Array[], known: readonly boolean[]): void {
    const last = new Map<string, string | undefined>();
    for (const [i, key] of keys.entries()) {
      const hex = keyHex(key);
      if (known[i]) this.#link(hex, last.get(groupOf(hex)));
      last.set(groupOf(hex), known[i] ? hex : undefined);
    }
  }

  #link(hex: string, parent: string | undefined): void {
    const block = this.blocks.get(hex);
    if (parent === undefined || parent === hex || block === undefined || !this.blocks.has(parent)) return;
    if (block.parent !== undefined && this.blocks.has(block.parent)) return;
    for (let above: string | undefined = parent; above !== undefined; above = this.blocks.get(above)?.parent) {
      if (above === hex) return;
    }
    block.parent = parent;
  }

  touch(keys: readonly Uint8Array[], nowMs: number): void {
    const tick = Math.floor(nowMs / TICK_MS);
    for (const key of keys) {
      const block = this.blocks.get(keyHex(key));
      if (block !== undefined)
        Object.assign(block, { tick: Math.max(block.tick, tick), uses: Math.min(block.uses + 1, 255) });
    }
  }

  dropTier(key: Uint8Array, tier: number): boolean {
    const block = this.blocks.get(keyHex(key)) as ModelBlock;
    block.tiers &= ~tier;
    return block.tiers === 0 && this.blocks.delete(keyHex(key));
  }

  longestPrefix(keys: readonly Uint8Array[], tiers: number): number {
    const end = keys.findIndex((key) => ((this.blocks.get(keyHex(key))?.tiers ?? 0) & tiers) === 0);
    return end === -1 ? keys.length : end;
  }

  /** Everything that is known of a block; undefined if it is not there. */
  facts(key: Uint8Array): object | undefined {
    const hex = keyHex(key);
    const block = this.blocks.get(hex);
    if (block === undefined) return undefined;
    const { tiers, bytes, tick, uses, parent } = block;
    const hasParent = parent !== undefined && this.blocks.has(parent);
    return {
      tiers,
      bytes,
      uses,
      lastUseMs: tick * TICK_MS,
      parent: hasParent ? parent : undefined,
      isOrphan: parent !== undefined && !hasParent,
      children: [...this.blocks.values()].filter((each) => each.parent === hex).length,
    };
  }
}

function groupOf(hex: string): string {
  return hex.slice(-8);
}

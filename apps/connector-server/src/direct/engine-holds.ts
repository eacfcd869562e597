import type { HeldBlocks, HostMemoryBackend } from "@kvferry/backend-host-memory";
import { type KeyBatch, keyAt, Outcome } from "@kvferry/core";

interface Held {
  /** HOLDs that no RELEASE has taken back. */
  holds: number;
  /** Copies out of it that are under way. */
  copies: number;
  /** Where it lies, each held once in the arena. More than one, if the block went and came again between two HOLDs: nobody says which one a RELEASE means. */
  readonly offsets: number[];
}

/** Where held blocks of a batch lie. They stay until `end`, whatever is released meanwhile. */
export interface HeldUse {
  /** Bytes from the arena's beginning, by position; -1 for what is not held. */
  readonly offsets: Float64Array;
  end(): void;
}

/** The blocks of the arena that an engine holds. */
export class EngineHolds {
  readonly #memory: HostMemoryBackend;
  readonly #held: Map<string, Held> = new Map();

  constructor(memory: HostMemoryBackend) {
    this.#memory = memory;
  }

  get blocks(): number {
    return this.#held.size;
  }

  /** Takes over what `hold` of the arena has given. */
  add(keys: KeyBatch, { result, offsets }: HeldBlocks): void {
    for (let i = 0; i < keys.count; i++) {
      if (result.outcomes[i] === Outcome.LOADED) this.#add(nameOf(keyAt(keys, i)), offsets[i] as number);
    }
  }

  /** Takes back one HOLD of each key; what is not held is left out. */
  release(keys: KeyBatch): void {
    for (let i = 0; i < keys.count; i++) this.#releaseOne(nameOf(keyAt(keys, i)));
  }

  use(keys: KeyBatch): HeldUse {
    const used: [string, Held][] = [];
    const offsets = new Float64Array(keys.count).fill(-1);
    for (let i = 0; i < keys.count; i++) {
      const name = nameOf(keyAt(keys, i));
      const held = this.#held.get(name);
      if (held === undefined || held.holds === 0) continue;
      held.copies++;
      used.push([name, held]);
      offsets[i] = held.offsets[0] as number;
    }
    return {
      offsets,
      end: () => {
        for (const [name, held] of used.splice(0)) {
          held.copies--;
          this.#letGo(name, held);
        }
      },
    };
  }

  /** No copy may be under way. */
  releaseAll(): void {
    for (const { offsets } of this.#held.values()) this.#memory.release(offsets);
    this.#held.clear();
  }

  #add(name: string, offset: number): void {
    const held = this.#held.get(name) ?? { holds: 0, copies: 0, offsets: [] };
    this.#held.set(name, held);
    held.holds++;
    if (held.offsets.includes(offset)) this.#memory.release([offset]);
    else held.offsets.push(offset);
  }

  #releaseOne(name: string): void {
    const held = this.#held.get(name);
    if (held === undefined || held.holds === 0) return;
    held.holds--;
    this.#letGo(name, held);
  }

  #letGo(name: string, held: Held): void {
    if (held.holds > 0 || held.copies > 0) return;
    this.#held.delete(name);
    this.#memory.release(held.offsets);
  }
}

function nameOf(key: Uint8Array): string {
  return Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString("latin1");
}

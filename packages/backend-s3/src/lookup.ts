import { type KeyBatch, keyAt, keyGroup, LookupState } from "@kvferry/core";
import type { KnownKeys } from "./known-keys.js";

/** Keys of a run that are asked for at first; doubles from wave to wave. */
const WAVE_KEYS = 8;

/** The keys of one group of a request, in prefix order. */
interface Run {
  readonly positions: number[];
  /** Index into `positions` from which nothing is decided yet. */
  next: number;
  waveKeys: number;
}

/**
 * Which keys of a request to ask the storage for. What is known is settled before; of the rest of each group's keys a first wave of eight
 * and the last one are asked for, and further, doubled waves while the wave before, or that last key, was there. Blocks of a prefix
 * are of use up to the first gap, and those of a sliding window lie at the end, so what is left out would hardly ever be used.
 * What is left out is answered MISS: no HIT is ever invented, and a MISS that is wrong costs what any MISS costs.
 */
export class LookupPlan {
  readonly states: Uint8Array;
  readonly #keys: KeyBatch;
  readonly #known: KnownKeys;
  readonly #runs: Run[];

  constructor(keys: KeyBatch, known: KnownKeys) {
    this.#keys = keys;
    this.#known = known;
    this.states = new Uint8Array(keys.count);
    this.#runs = known.lookup(keys, this.states) === 0 ? [] : this.#runsOf();
  }

  /** Positions to ask for now; empty when the answer is complete. Their states are to be set, and misses to be noted, before the next call. */
  next(): number[] {
    const ask: number[] = [];
    while (ask.length === 0 && this.#runs.length > 0) {
      for (const run of this.#runs.splice(0)) {
        if (!this.#goesOn(run)) continue;
        this.#runs.push(run);
        this.#wave(run, ask);
      }
    }
    return ask;
  }

  #runsOf(): Run[] {
    const byGroup = new Map<number, Run>();
    for (let i = 0; i < this.#keys.count; i++) {
      if (this.states[i] !== LookupState.MISS) continue;
      const group = keyGroup(keyAt(this.#keys, i));
      const run = byGroup.get(group);
      if (run !== undefined) run.positions.push(i);
      else byGroup.set(group, { positions: [i], next: 0, waveKeys: 0 });
    }
    return [...byGroup.values()];
  }

  /** Whether the keys after the last wave are worth asking for. */
  #goesOn({ positions, next, waveKeys }: Run): boolean {
    if (next >= positions.length) return false;
    if (waveKeys === 0) return true;
    if (this.states[positions.at(-1) as number] !== LookupState.MISS) return true;
    for (let i = Math.max(0, next - waveKeys); i < next; i++) {
      if (this.states[positions[i] as number] !== LookupState.MISS) return true;
    }
    return false;
  }

  #wave(run: Run, ask: number[]): void {
    const { positions } = run;
    const first = run.waveKeys === 0;
    run.waveKeys = first ? WAVE_KEYS : run.waveKeys * 2;
    const end = Math.min(run.next + run.waveKeys, positions.length);
    for (let i = run.next; i < end; i++) this.#askFor(positions[i] as number, ask);
    if (first && end < positions.length) this.#askFor(positions.at(-1) as number, ask);
    run.next = end;
  }

  #askFor(position: number, ask: number[]): void {
    if (this.states[position] !== LookupState.MISS || this.#known.isMiss(keyAt(this.#keys, position))) return;
    ask.push(position);
  }
}

import type { BlockBatch } from "../backend.js";
import type { AuthorOptions } from "../call.js";
import { type BatchResult, Outcome } from "../outcomes.js";
import { Flights } from "./flights.js";
import { LoadRun } from "./load-run.js";
import { fastest, type StoreParts, upMask } from "./parts.js";
import type { Tier } from "./tier.js";

/** The loads of a store. */
export class Loads {
  readonly #parts: StoreParts;
  readonly #flights: Flights = new Flights();

  constructor(parts: StoreParts) {
    this.#parts = parts;
  }

  /** A batch that lies in the first tier, or in one with no tier above to promote to, is that tier's load and nothing else. */
  async load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    const rows = this.#parts.map.find(batch.keys);
    this.#parts.map.use(rows);
    const tier = this.#onlyTier(rows);
    if (tier === undefined) return new LoadRun(this.#parts, this.#flights, batch, options).run();
    const result = await tier.load(batch, options);
    let loaded = 0;
    for (let i = 0; i < rows.length; i++) if (result.outcomes[i] === Outcome.LOADED) loaded++;
    if (loaded === rows.length) {
      tier.hits += loaded;
      return result;
    }
    const run = new LoadRun(this.#parts, this.#flights, batch, options);
    run.take(tier, undefined, result, this.#parts.map.find(batch.keys));
    return run.run();
  }

  #onlyTier(rows: Int32Array): Tier | undefined {
    const { tiers, map } = this.#parts;
    const up = upMask(tiers);
    let all = up;
    let any = 0;
    for (let i = 0; i < rows.length; i++) {
      const bits = map.tiers(rows[i] as number);
      all &= bits;
      any |= bits;
    }
    if (all === 0) return undefined;
    const tier = fastest(tiers, all);
    const faster = up & (tier.bit - 1);
    if ((any & faster) !== 0) return undefined;
    for (let number = 0; number < tier.number; number++) {
      if ((tiers[number] as Tier).promote && (faster & (1 << number)) !== 0) return undefined;
    }
    return tier;
  }
}

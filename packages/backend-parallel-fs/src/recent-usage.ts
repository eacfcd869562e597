import type { Usage } from "@kvferry/core";

/** Blocks that counting may ask the file system for, in a second on average. */
const COUNTED_PER_SECOND_MAX = 10_000;

/**
 * Counting a folder asks the metadata servers for every file in it, and metrics ask for the count with every scrape. A count of many blocks
 * is therefore given again for as long as they deserve, 1 s for each 10,000; of fewer, every call counts. Calls during a count share it.
 */
export class RecentUsage {
  readonly #nowMs: () => number;
  #counting: Promise<Usage> | undefined;
  #last: Usage | undefined;
  #freshUntilMs = 0;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  /** Rejects as `count` does. */
  async get(count: () => Promise<Usage>): Promise<Usage> {
    if (this.#last !== undefined && this.#nowMs() < this.#freshUntilMs) return this.#last;
    this.#counting ??= this.#count(count).finally(() => {
      this.#counting = undefined;
    });
    return this.#counting;
  }

  async #count(count: () => Promise<Usage>): Promise<Usage> {
    const usage = await count();
    this.#last = usage;
    const many = usage.blocks >= COUNTED_PER_SECOND_MAX;
    this.#freshUntilMs = many ? this.#nowMs() + (usage.blocks / COUNTED_PER_SECOND_MAX) * 1000 : 0;
    return usage;
  }
}

import type { BlockBatch, OffloadBackend } from "../backend.js";
import { type AuthorOptions, abortCode } from "../call.js";
import { type ErrorCode, toKvferryError } from "../errors.js";
import type { KeyBatch } from "../keys.js";
import { type BatchResult, Outcome, outcomeCode, uniformResult } from "../outcomes.js";
import type { Clock, Logger } from "../runtime.js";
import { CapacityLayer } from "./capacity-layer.js";
import type { EvictionSource } from "./evictions.js";
import type { TierOptions } from "./options.js";

/** How long a tier is left alone that has failed as a whole. */
const RETRY_MS = 1000;
const PENDING_BYTES_MAX = 256 * 1024 * 1024;

/** Where a tier of a store is, what it is for, and whether it can be asked. */
export class Tier {
  /** From 0, the fastest. */
  readonly number: number;
  /** In masks of tiers. */
  readonly bit: number;
  readonly name: string;
  readonly backend: OffloadBackend;
  readonly write: "through" | "back" | "none";
  readonly promote: boolean;
  readonly cascade: boolean;
  readonly pendingBytesMax: number;
  readonly evictions: EvictionSource | undefined;
  /** Whether a block that is not known to be here is not here: all were listed, and nobody else stores into it. */
  exact = false;
  /** Goes up whenever blocks leave the tier. */
  removals = 0;
  /** Blocks loaded from here. */
  hits = 0;
  readonly #isDown: (() => boolean) | undefined;
  #clock: Clock | undefined;
  #logger: Logger | undefined;
  #downUntilMs = 0;
  #probeAtMs = 0;

  /** @throws KvferryError CONFIG_INVALID for a bound that the backend cannot be kept within. */
  constructor(options: TierOptions, number: number, isLast: boolean) {
    const { capacityBytes, policy, storedBytes } = options;
    const bounded =
      capacityBytes === undefined
        ? undefined
        : new CapacityLayer(options.backend, { capacityBytes, policy, storedBytes });
    this.number = number;
    this.bit = 1 << number;
    this.name = options.name;
    this.backend = bounded ?? options.backend;
    this.evictions = bounded ?? options.evictions;
    this.write = options.write ?? "through";
    this.promote = options.promote ?? !isLast;
    this.cascade = options.cascade ?? !isLast;
    this.pendingBytesMax = options.pendingBytesMax ?? PENDING_BYTES_MAX;
    this.#isDown = options.isDown;
  }

  opened(clock: Clock, logger: Logger): void {
    this.#clock = clock;
    this.#logger = logger;
  }

  get isUp(): boolean {
    if (this.backend.state !== "open") return false;
    if (this.#isDown?.() !== true) return this.#downUntilMs === 0 || this.#downUntilMs <= this.#nowMs();
    this.#probe();
    return false;
  }

  /** Never rejects: a tier that fails as a whole fails every key, and is down for a while. */
  async store(batch: BlockBatch, { signal, priority }: AuthorOptions): Promise<BatchResult> {
    try {
      return this.#judged(await this.backend.store(batch, { signal, priority }));
    } catch (thrown) {
      return uniformResult(batch.keys.count, Outcome.FAILED, this.failed(thrown, "store", signal));
    }
  }

  /** As `store`. */
  async load(batch: BlockBatch, { signal, priority }: AuthorOptions): Promise<BatchResult> {
    try {
      return this.#judged(await this.backend.load(batch, { signal, priority }));
    } catch (thrown) {
      return uniformResult(batch.keys.count, Outcome.FAILED, this.failed(thrown, "load", signal));
    }
  }

  /** As `store`. */
  async remove(keys: KeyBatch, { signal, priority }: AuthorOptions): Promise<BatchResult> {
    try {
      return this.#judged(await this.backend.remove(keys, { signal, priority }));
    } catch (thrown) {
      return uniformResult(keys.count, Outcome.FAILED, this.failed(thrown, "remove", signal));
    }
  }

  /** Notes that a call was rejected; the code for its keys. */
  failed(thrown: unknown, operation: string, signal: AbortSignal | undefined): ErrorCode {
    if (signal?.aborted) return abortCode(signal);
    const err = toKvferryError(thrown, operation);
    if (err.code === "BUSY") return err.code; // too much at once, but it works
    this.#logger?.warn({ err, tier: this.name, operation }, "a tier fails; it is skipped for now");
    this.#fell();
    return err.code;
  }

  #judged(result: BatchResult): BatchResult {
    const { outcomes } = result;
    for (let i = 0; i < outcomes.length; i++) {
      if (outcomes[i] !== Outcome.FAILED && outcomes[i] !== Outcome.DROPPED) return result;
      const code = outcomeCode(result, i);
      if (code !== "UNAVAILABLE" && code !== "CLOSED") return result;
    }
    this.#fell();
    return result;
  }

  #fell(): void {
    this.#downUntilMs = this.#nowMs() + RETRY_MS;
  }

  /** A circuit breaker closes again only when a call comes. */
  #probe(): void {
    const nowMs = this.#nowMs();
    if (nowMs < this.#probeAtMs) return;
    this.#probeAtMs = nowMs + RETRY_MS;
    const { keyBytes } = this.backend.context;
    const keys = { bytes: new Uint8Array(keyBytes), stride: keyBytes, count: 1 };
    this.backend.lookup(keys).catch(() => {}); // its answer is the breaker's business
  }

  #nowMs(): number {
    return (this.#clock as Clock).monotonicMs();
  }
}

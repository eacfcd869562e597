import type { HeldBlocks, HostMemoryBackend } from "@kvferry/backend-host-memory";
import {
  abortCode,
  type BatchResult,
  type CallOptions,
  callLimit,
  type ErrorCode,
  type KeyBatch,
  type OffloadBackend,
  Outcome,
  outcomeCode,
  outcomeName,
  type StagingPool,
  selectKeys,
  setOutcome,
  toKvferryError,
} from "@kvferry/core";
import type { DirectCounts, HoldSource } from "./counts.js";

/** What HOLD works with. */
export interface HoldParts {
  readonly memory: HostMemoryBackend;
  /** All tiers. */
  readonly backend: OffloadBackend;
  /** Where blocks come to on their way from other tiers. */
  readonly staging: StagingPool;
  readonly counts: DirectCounts;
}

/**
 * Holds blocks in the arena, verified. What is not there is loaded from the other tiers, part by part, by a load as any other: it puts the block into the arena, reads it once for
 * all engines that ask, and counts what is missing.
 *
 * LOADED: it is held. MISS, CORRUPT, FAILED: it is not; FAILED(NO_SPACE) where the arena took it not, because all of it is held. If it throws, nothing is held.
 */
export async function holdBlocks(parts: HoldParts, keys: KeyBatch, options: CallOptions): Promise<HeldBlocks> {
  const held = await parts.memory.hold(keys, { signal: options.signal, priority: "load" });
  const lacking: number[] = [];
  for (let i = 0; i < keys.count; i++) {
    const outcome = held.result.outcomes[i];
    if (outcome === Outcome.LOADED || outcome === Outcome.CORRUPT) count(parts, "arena", outcome);
    if (outcome !== Outcome.LOADED) lacking.push(i);
  }
  if (lacking.length === 0) return held;
  const { signal, release } = callLimit(options, "hold");
  try {
    await bring(parts, keys, lacking, held, signal);
  } finally {
    release();
  }
  return held;
}

async function bring(
  parts: HoldParts,
  keys: KeyBatch,
  lacking: readonly number[],
  held: HeldBlocks,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { staging } = parts;
  for (let at = 0; at < lacking.length; ) {
    const slots = await staging.take(lacking.length - at, signal);
    if (slots === undefined) {
      for (const i of lacking.slice(at)) note(parts, held, i, Outcome.FAILED, abortCode(signal as AbortSignal));
      return;
    }
    const positions = lacking.slice(at, at + slots.length);
    at += slots.length;
    try {
      await bringSome(parts, keys, positions, slots, held, signal);
    } catch (thrown) {
      const { code } = toKvferryError(thrown, "hold");
      for (const i of positions.filter((each) => held.result.outcomes[each] !== Outcome.LOADED))
        note(parts, held, i, Outcome.FAILED, code);
    } finally {
      staging.give(slots);
    }
  }
}

async function bringSome(
  parts: HoldParts,
  keys: KeyBatch,
  positions: readonly number[],
  slots: Uint32Array,
  held: HeldBlocks,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { backend, memory, staging } = parts;
  const loaded = await backend.load({ keys: selectKeys(keys, positions), region: staging.region, slots }, { signal });
  const good: number[] = [];
  for (const [k, i] of positions.entries()) {
    if (loaded.outcomes[k] === Outcome.LOADED) good.push(i);
    else noteMissing(parts, held, i, loaded, k);
  }
  if (good.length === 0) return;
  const now = await memory.hold(selectKeys(keys, good), { signal, priority: "load" });
  for (const [k, i] of good.entries()) {
    const outcome = now.result.outcomes[k] as Outcome;
    if (outcome === Outcome.MISS) note(parts, held, i, Outcome.FAILED, "NO_SPACE");
    else note(parts, held, i, outcome, outcomeCode(now.result, k));
    if (outcome === Outcome.LOADED) held.offsets[i] = now.offsets[k] as number;
  }
}

/** A block that was damaged in the arena and is in no other tier is damaged, not missing. */
function noteMissing(parts: HoldParts, held: HeldBlocks, i: number, loaded: BatchResult, k: number): void {
  const outcome = loaded.outcomes[k] as Outcome;
  if (outcome === Outcome.MISS && held.result.outcomes[i] === Outcome.CORRUPT) count(parts, "tier", outcome);
  else note(parts, held, i, outcome, outcomeCode(loaded, k));
}

function note(
  parts: HoldParts,
  { result }: HeldBlocks,
  i: number,
  outcome: Outcome,
  code: ErrorCode | undefined,
): void {
  setOutcome(result, i, outcome, code);
  count(parts, "tier", outcome);
}

function count({ counts }: HoldParts, source: HoldSource, outcome: Outcome): void {
  counts.hold(source, outcomeName(outcome).toLowerCase());
}

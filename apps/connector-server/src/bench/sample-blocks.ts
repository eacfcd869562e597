import { randomBytes } from "node:crypto";
import { type BatchResult, KvferryError, Outcome, outcomeCode } from "@kvferry/core";
import type { MappedRegion } from "@kvferry/native";

/** A SHA-256 and the group, as vLLM's are. */
export const KEY_BYTES = 36;

const CHUNK_BYTES = 2 ** 20;

/** Fills a region with bytes that no storage can make smaller. */
export function fillRandom({ bytes }: MappedRegion): void {
  const chunk = randomBytes(Math.min(bytes.length, CHUNK_BYTES));
  for (let at = 0; at < bytes.length; at += chunk.length) bytes.set(chunk.subarray(0, bytes.length - at), at);
}

/** Makes the blocks in all slots unlike any others: each begins with its key. */
export function markBlocks({ bytes, rows, rowBytes }: MappedRegion, keys: Uint8Array): void {
  for (let slot = 0; slot < rows; slot++) {
    bytes.set(keys.subarray(slot * KEY_BYTES, (slot + 1) * KEY_BYTES), slot * rowBytes);
  }
}

/** @throws KvferryError with the code of the first block that was not moved. */
export function requireMoved(what: "store" | "load", result: BatchResult): void {
  const wanted = what === "store" ? Outcome.STORED : Outcome.LOADED;
  const bad = result.outcomes.findIndex((outcome) => outcome !== wanted);
  if (bad < 0) return;
  const code = outcomeCode(result, bad) ?? "IO";
  throw new KvferryError(code, `a block could not be ${what === "store" ? "stored" : "loaded"}: ${code}`, {
    operation: what,
  });
}

/** The time that a share of them is no longer than. */
export function quantile(times: readonly number[], share: number): number {
  const sorted = [...times].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] as number;
}

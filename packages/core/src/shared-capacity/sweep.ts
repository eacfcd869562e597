import type { CapacityFiles } from "./files.js";
import type { Ledger } from "./ledger.js";
import { parseName } from "./names.js";

export interface SweepOptions {
  readonly files: CapacityFiles;
  readonly ledger: Ledger;
  readonly epoch: number;
  hasEnded(writer: string): boolean | undefined;
}

/** Removes what nobody needs any more: files of servers that have ended and are not counted, and what earlier leaders wrote. */
export async function sweep(names: readonly string[], options: SweepOptions): Promise<void> {
  for (const name of names) if (isWaste(name, options)) await options.files.remove(name);
}

function isWaste(name: string, { ledger, epoch, hasEnded }: SweepOptions): boolean {
  const parsed = parseName(name);
  if (parsed === undefined || parsed.kind === "epoch") return false;
  if (parsed.kind === "evictions") return parsed.epoch < epoch - 1; // the last one's may still be read
  if (parsed.kind === "grant" && parsed.epoch < epoch) return true;
  if (ledger.members.has(parsed.writer)) return false;
  return ledger.forgotten.has(parsed.writer) || hasEnded(parsed.writer) === true;
}

import { KvferryError } from "@kvferry/core";
import { resolveConfig } from "../config.js";
import { readConfigFile } from "../config-file.js";
import { type CopyCounts, noCounts } from "../maintenance/copy-blocks.js";
import {
  copyNamespace,
  type MissingCounts,
  missingInNamespace,
  type Side,
  sourceNamespaces,
} from "../maintenance/copy-namespaces.js";
import { exists, isSamePlace, named, resolveSide, startSide } from "../maintenance/copy-sides.js";
import { bytesText } from "../sizes.js";
import { sizeOf } from "../storage/tier-config.js";
import type { StoredNamespace } from "../storage/tier-runtime.js";
import { EXIT_FAILED } from "./exit-codes.js";
import { onInterrupt } from "./interrupt.js";
import { Progress } from "./progress.js";

export interface CopyFlags {
  readonly config?: string;
  /** First digits of digests; none: all namespaces. */
  readonly namespace?: readonly string[];
  /** Bytes a second: "200MiB" or "200MiB/s". */
  readonly rate?: string;
  /** Blocks on the way at a time. */
  readonly concurrency?: string;
  readonly verify?: boolean;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

const BLOCKS_DEFAULT = 64;
const BLOCKS_MAX = 4096;

interface Identity {
  readonly namespace: string;
  readonly model: string;
  readonly blockBytes: number;
}
type CopyRow = Identity & CopyCounts & { readonly seconds: number };

interface Limits {
  readonly rateBytesMax: number | undefined;
  readonly blocksMax: number;
  readonly signal: AbortSignal;
}

/** Copies what one storage has and another has not. Exit code 1 if blocks could not be copied, damaged ones included. */
export async function copy(fromText: string, toText: string, flags: CopyFlags): Promise<void> {
  const rateBytesMax = sizeOf("--rate", flags.rate?.replace(/\/s$/, ""));
  const blocksMax = concurrencyOf(flags.concurrency);
  const config = resolveConfig(flags.config === undefined ? {} : readConfigFile(flags.config));
  const [fromTier, toTier] = [resolveSide("FROM", fromText, config), resolveSide("TO", toText, config)];
  if (isSamePlace(fromTier, toTier)) throw wrong("FROM and TO are the same place", "TO");
  if (!exists(fromTier)) throw wrong(`FROM: there is no storage of kvferry's at ${fromText}`, "FROM");
  const interrupt = onInterrupt();
  const from = { runtime: await startSide("FROM", fromTier, config), tier: fromTier };
  try {
    const namespaces = await named("FROM", () => sourceNamespaces(from, flags.namespace ?? []));
    const makesNothing = flags.dryRun === true && !exists(toTier);
    const to = makesNothing ? undefined : { runtime: await startSide("TO", toTier, config), tier: toTier };
    try {
      if (flags.dryRun === true || to === undefined) await dryRun(from, to, namespaces, flags, interrupt.signal);
      else await copyAll(from, to, namespaces, flags, { rateBytesMax, blocksMax, signal: interrupt.signal });
    } finally {
      await to?.runtime.close();
    }
  } finally {
    await from.runtime.close();
  }
  process.exitCode = interrupt.code() ?? process.exitCode ?? 0;
}

async function copyAll(
  from: Side,
  to: Side,
  namespaces: readonly StoredNamespace[],
  { json, verify = false }: CopyFlags,
  limits: Limits,
): Promise<void> {
  const { signal } = limits;
  const progress = new Progress(json !== true);
  const rows: CopyRow[] = [];
  let error: unknown;
  for (const stored of namespaces) {
    if (signal.aborted || rows.some(({ full }) => full)) break;
    const [counts, startedMs] = [noCounts(), performance.now()];
    const label = stored.namespace.digestHex.slice(0, 12);
    const onProgress = (now: CopyCounts): void => progress.show(label, doneBlocks(now), now.listedBlocks, facts(now));
    try {
      await copyNamespace(from, to, stored, { ...limits, verify, onProgress }, counts);
    } catch (thrown) {
      error = thrown; // after what has been done was told
    }
    progress.end();
    rows.push({ ...identityOf(stored), ...counts, seconds: (performance.now() - startedMs) / 1000 });
    if (json !== true) process.stdout.write(`${line(rows.at(-1) as CopyRow)}\n`);
    if (error !== undefined) break;
  }
  if (json === true) printJson({ dryRun: false, interrupted: signal.aborted, namespaces: rows });
  else if (rows.length === 0) process.stdout.write("nothing is stored\n");
  if (error !== undefined) throw error;
  if (rows.some(({ full }) => full)) process.stderr.write(`kvferry: ${fullText(rows, to)}\n`);
  if (rows.some((row) => isIncomplete(row))) process.exitCode = EXIT_FAILED;
}

async function dryRun(
  from: Side,
  to: Side | undefined,
  namespaces: readonly StoredNamespace[],
  { json }: CopyFlags,
  signal: AbortSignal,
): Promise<void> {
  const rows: (Identity & MissingCounts)[] = [];
  for (const stored of namespaces) {
    if (signal.aborted) break;
    const row = { ...identityOf(stored), ...(await missingInNamespace(from, to, stored, signal)) };
    rows.push(row);
    if (json === true) continue;
    const bytes = bytesText(row.missingBlocks * row.blockBytes);
    process.stdout.write(
      `${label(row)}: ${row.missingBlocks} blocks to copy, ${bytes}; ${row.skippedBlocks} are there (--dry-run)\n`,
    );
  }
  if (json === true) printJson({ dryRun: true, interrupted: signal.aborted, namespaces: rows });
  else if (rows.length === 0) process.stdout.write("nothing is stored\n");
}

function concurrencyOf(text: string | undefined): number {
  if (text === undefined) return BLOCKS_DEFAULT;
  const blocks = Number(text);
  if (Number.isSafeInteger(blocks) && blocks >= 1 && blocks <= BLOCKS_MAX) return blocks;
  throw wrong(`--concurrency takes blocks on the way at a time, 1 to ${BLOCKS_MAX}, got '${text}'`, "--concurrency");
}

function wrong(message: string, field: string): KvferryError {
  return new KvferryError("CONFIG_INVALID", message, { operation: "config", context: { field } });
}

function identityOf({ namespace, blockBytes }: StoredNamespace): Identity {
  return { namespace: namespace.digestHex, model: namespace.fields.model, blockBytes };
}

function doneBlocks(counts: CopyCounts): number {
  const { skippedBlocks, copiedBlocks, corruptBlocks, missedBlocks, failedBlocks } = counts;
  return skippedBlocks + copiedBlocks + corruptBlocks + missedBlocks + failedBlocks;
}

function facts({ copiedBlocks, skippedBlocks, corruptBlocks }: CopyCounts): string {
  return `${copiedBlocks} copied, ${skippedBlocks} there, ${corruptBlocks} damaged`;
}

function label({ namespace, model }: Identity): string {
  return `${namespace.slice(0, 12)} ${model}`;
}

function line(row: CopyRow): string {
  const rate = `${bytesText(row.readBytes / Math.max(row.seconds, 0.001))}/s`;
  const more = [
    ...(row.verifiedBlocks > 0 ? [`${row.verifiedBlocks} read back`] : []),
    ...(row.corruptBlocks > 0 ? [`${row.corruptBlocks} damaged in FROM, not copied`] : []),
    ...(row.missedBlocks > 0 ? [`${row.missedBlocks} gone meanwhile`] : []),
    ...(row.droppedBlocks > 0 ? [`${row.droppedBlocks} refused by TO`] : []),
    ...(row.failedBlocks > 0 ? [`${row.failedBlocks} failed (${Object.keys(row.codes).join(", ")})`] : []),
  ];
  const rest = more.length === 0 ? "" : `, ${more.join(", ")}`;
  return `${label(row)}: ${row.copiedBlocks} of ${row.listedBlocks} blocks copied, ${bytesText(row.readBytes)} read at ${rate}, ${row.skippedBlocks} were there${rest}`;
}

function fullText(rows: readonly CopyRow[], { runtime }: Side): string {
  const codes = new Set(rows.flatMap((row) => Object.keys(row.codes)));
  const why =
    codes.size === 0 || codes.has("NO_SPACE")
      ? `is full${runtime.capacityBytes === undefined ? "" : ` (capacity ${bytesText(runtime.capacityBytes)})`}`
      : `takes no more (${[...codes].join(", ")})`;
  return `TO ${why}: what was copied stays; make room, then the same command goes on`;
}

function isIncomplete({ full, corruptBlocks, droppedBlocks, failedBlocks }: CopyCounts): boolean {
  return full || corruptBlocks + droppedBlocks + failedBlocks > 0;
}

function printJson(result: object): void {
  process.stdout.write(`${JSON.stringify(result, null, 2)}\n`);
}

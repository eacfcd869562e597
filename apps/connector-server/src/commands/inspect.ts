import { KvferryError, LookupState, type OffloadBackend, Outcome, outcomeCode, outcomeName } from "@kvferry/core";
import { crc32c, createRegion } from "@kvferry/native";
import { type BlockStatistics, statisticsOf } from "../maintenance/statistics.js";
import { eachStoredNamespace, type StorageFlags } from "../maintenance/stored-blocks.js";
import { bytesText } from "../sizes.js";
import { EXIT_FAILED } from "./exit-codes.js";

export interface InspectFlags extends StorageFlags {
  readonly stats?: boolean;
  readonly json?: boolean;
}

interface Place {
  readonly tier: string;
  readonly place: string | undefined;
  readonly namespace: string;
  readonly model: string;
  readonly tenant: string;
  readonly keyBytes: number;
  readonly blockBytes: number;
}

interface FoundBlock extends Place {
  /** What loading it came to, as in `Outcome`. */
  readonly outcome: string;
  readonly code: string | undefined;
  /** CRC-32C of the payload, hex; undefined where it was not loaded. */
  readonly crc32c: string | undefined;
}

/** Where a block is, and whether it is sound; or, with `stats`, what is stored at all. */
export async function inspect(key: string | undefined, flags: InspectFlags): Promise<void> {
  if ((key === undefined) === (flags.stats !== true)) {
    throw new KvferryError("CONFIG_INVALID", "inspect takes a KEY in hex, or --stats");
  }
  await (key === undefined ? showStatistics(flags) : showBlock(bytesOf(key), flags));
}

async function showStatistics(flags: InspectFlags): Promise<void> {
  const rows: (Place & BlockStatistics)[] = [];
  await eachStoredNamespace(flags, async (blocks) => {
    rows.push({ ...placeOf(blocks), ...(await statisticsOf(blocks.backend, Date.now())) });
  });
  if (flags.json === true) process.stdout.write(`${JSON.stringify({ namespaces: rows }, null, 2)}\n`);
  else process.stdout.write(rows.length === 0 ? "nothing is stored\n" : rows.map(statisticsText).join(""));
}

async function showBlock(key: Uint8Array, flags: InspectFlags): Promise<void> {
  const found: FoundBlock[] = [];
  await eachStoredNamespace(flags, async (blocks) => {
    if (blocks.stored.keyBytes !== key.length) return;
    const block = await readBlock(blocks.backend, key);
    if (block !== undefined) found.push({ ...placeOf(blocks), ...block });
  });
  if (flags.json === true) process.stdout.write(`${JSON.stringify({ blocks: found }, null, 2)}\n`);
  else process.stdout.write(found.length === 0 ? "no tier has this block\n" : found.map(blockText).join(""));
  if (found.length === 0 || found.some(({ crc32c: sum }) => sum === undefined)) process.exitCode = EXIT_FAILED;
}

async function readBlock(
  backend: OffloadBackend,
  key: Uint8Array,
): Promise<Pick<FoundBlock, "outcome" | "code" | "crc32c"> | undefined> {
  const keys = { bytes: key, stride: key.length, count: 1 };
  const [state] = await backend.lookup(keys);
  if (state === LookupState.MISS) return undefined;
  const { blockBytes } = backend.context;
  const region = createRegion({ rows: 1, rowBytes: Math.ceil(blockBytes / 4096) * 4096 });
  try {
    const result = await backend.load({ keys, region, slots: new Uint32Array(1) });
    const outcome = result.outcomes[0] as number;
    const loaded = outcome === Outcome.LOADED;
    return {
      outcome: outcomeName(outcome),
      code: outcomeCode(result, 0),
      crc32c: loaded ? crc32c(region.bytes.subarray(0, blockBytes)).toString(16).padStart(8, "0") : undefined,
    };
  } finally {
    region.close();
  }
}

function placeOf({ tier, stored }: Parameters<Parameters<typeof eachStoredNamespace>[1]>[0]): Place {
  const { namespace, keyBytes, blockBytes } = stored;
  const { model, tenant } = namespace.fields;
  return {
    tier: tier.name,
    place: tier.place,
    namespace: namespace.digestHex,
    model,
    tenant,
    keyBytes,
    blockBytes,
  };
}

function bytesOf(hex: string): Uint8Array {
  if (/^([0-9a-fA-F]{2})+$/.test(hex)) return new Uint8Array(Buffer.from(hex, "hex"));
  throw new KvferryError("CONFIG_INVALID", `KEY is the block's key in hex, two digits a byte, got '${hex}'`);
}

function blockText(block: FoundBlock): string {
  const sound =
    block.crc32c === undefined ? `${block.outcome} ${block.code ?? ""}`.trim() : `sound, CRC-32C ${block.crc32c}`;
  return `${block.tier.padEnd(8)} ${block.namespace.slice(0, 12)} ${block.model}: ${bytesText(block.blockBytes)}, ${sound}\n`;
}

function statisticsText(row: Place & BlockStatistics): string {
  const { hour, day, week, longer } = row.unused;
  const stored =
    row.oldestStoredAtMs === undefined
      ? ""
      : `, stored from ${date(row.oldestStoredAtMs)} to ${date(row.newestStoredAtMs)}`;
  return [
    `${row.tier.padEnd(8)} ${row.namespace.slice(0, 12)} ${row.model}: ${row.blocks} blocks of ${bytesText(row.blockBytes)}, ${bytesText(row.bytes)}${stored}`,
    `         last used: ${hour} within an hour, ${day} within a day, ${week} within a week, ${longer} longer ago\n`,
  ].join("\n");
}

function date(ms: number | undefined): string {
  return ms === undefined ? "?" : new Date(ms).toISOString().slice(0, 16);
}

import { toKvferryError } from "../errors.js";
import { KeySet } from "../key-set.js";
import { type KeyBatch, packKeys, selectKeys } from "../keys.js";
import { LookupState } from "../outcomes.js";
import type { AuthorScanOptions, ScanEntry, ScanPage } from "../scan.js";
import type { StoreParts } from "./parts.js";
import type { Tier } from "./tier.js";

/** How often a page's blocks are asked for when some of the tier's leave at the same time. */
const QUESTIONS_MAX = 5;

/** Fills the map with what a tier held before the store was opened. Afterwards the tier is exact, if nobody else stores into it. */
export async function listTier({ map, context, stopping }: StoreParts, tier: Tier): Promise<void> {
  const { capabilities } = tier.backend.manifest;
  if (!capabilities.scan) return;
  try {
    let whole = true;
    const pages = tier.backend.scan({ signal: stopping });
    for (;;) {
      const { removals } = tier;
      const { done, value } = await pages.next();
      if (done) break;
      const keys = packKeys(value.map(({ key }) => key));
      if (removals === tier.removals) map.gainAll(keys, tier.bit);
      else if (!(await gainIfThere(keys, tier, map))) whole = false;
    }
    tier.exact = whole && !capabilities.sharedAcrossHosts;
  } catch (thrown) {
    if (stopping.aborted) return;
    const err = toKvferryError(thrown, "scan");
    context.logger.warn({ err, tier: tier.name }, "could not list a tier's blocks; lookups ask the tier");
  }
}

async function gainIfThere(keys: KeyBatch, tier: Tier, map: StoreParts["map"]): Promise<boolean> {
  for (let question = 0; question < QUESTIONS_MAX; question++) {
    const { removals } = tier;
    const states = tier.backend.lookupNow(keys) ?? (await tier.backend.lookup(keys));
    if (removals !== tier.removals) continue;
    const there: number[] = [];
    for (let i = 0; i < keys.count; i++) if (states[i] === LookupState.HIT) there.push(i);
    if (there.length > 0) map.gainAll(selectKeys(keys, there), tier.bit);
    return true;
  }
  return false;
}

/** Every block once, with its bytes in all tiers. Keys that were listed are remembered until the last tier is done: some 50 bytes for each. */
export async function* scanTiers(
  parts: StoreParts,
  bytesOf: ReadonlyMap<Tier, number>,
  { signal, pageEntriesMax }: AuthorScanOptions,
): AsyncGenerator<ScanPage> {
  const { tiers, map, context } = parts;
  const listed = new KeySet(context.keyBytes);
  for (const [n, tier] of tiers.entries()) {
    const isLast = n === tiers.length - 1;
    for await (const page of tier.backend.scan({ signal, pageEntriesMax })) {
      const fresh = page.filter(({ key }) => (isLast ? !listed.has(key) : listed.add(key)));
      if (fresh.length === 0) continue;
      const rows = map.find(packKeys(fresh.map(({ key }) => key)));
      yield fresh.map((entry, i) => withAllBytes(entry, tier, map.tiers(rows[i] as number), tiers, bytesOf));
    }
  }
}

function withAllBytes(
  entry: ScanEntry,
  from: Tier,
  bits: number,
  tiers: readonly Tier[],
  bytesOf: ReadonlyMap<Tier, number>,
): ScanEntry {
  let { bytes } = entry;
  for (const tier of tiers) {
    if (tier !== from && (bits & tier.bit) !== 0) bytes += bytesOf.get(tier) ?? 0;
  }
  return { ...entry, bytes };
}

import { KvferryError, storedBlockBytes } from "@kvferry/core";
import { type LayeredBackend, withTierLayers } from "../layers.js";
import { freeBytesOf } from "../storage/room.js";
import type { ResolvedTier } from "../storage/tier-config.js";
import type { StoredNamespace, TierRuntime } from "../storage/tier-runtime.js";
import { type CopyCounts, type CopyOptions, copyBlocks, countMissing } from "./copy-blocks.js";
import { invalid, named } from "./copy-sides.js";

/** Ms that a load or store may take here at least: nobody waits for a copy, and a slow line is no failure. */
const DEADLINE_MS_MIN = 120_000;

/** A tier that was started, and what it was configured with. */
export interface Side {
  readonly runtime: TierRuntime;
  readonly tier: ResolvedTier;
}

export type MissingCounts = Awaited<ReturnType<typeof countMissing>>;

/** What FROM has, of that what the first digits of digests choose; all without any.
 * @throws KvferryError CONFIG_INVALID for digits that fit nothing, and where it cannot be told whose blocks are whose. */
export async function sourceNamespaces(
  { runtime, tier }: Side,
  digests: readonly string[],
): Promise<readonly StoredNamespace[]> {
  const all = await runtime.namespaces();
  const fits = ({ namespace }: StoredNamespace, digits: string): boolean =>
    namespace.digestHex.startsWith(digits.toLowerCase());
  for (const digits of digests) {
    if (!all.some((stored) => fits(stored, digits)))
      throw invalid("FROM", "--namespace", `is ${digits}: there is none`);
  }
  const chosen = digests.length === 0 ? all : all.filter((stored) => digests.some((digits) => fits(stored, digits)));
  if ("layout" in tier && tier.layout === "vllm-fs") checkVllmFolders(tier.adopt === true, chosen);
  return chosen;
}

/** vLLM's paths leave out most of a namespace. */
function checkVllmFolders(adopt: boolean, chosen: readonly StoredNamespace[]): void {
  if (chosen.length === 0) {
    throw new KvferryError(
      "CONFIG_INVALID",
      "FROM: it is not written down whose blocks these are: let an engine use kvferry over this folder once (layout vllm-fs, adopt: true), then copy",
      { operation: "copy", context: { field: "FROM.root" } },
    );
  }
  const ownerOf = new Map<string, string>();
  for (const { namespace, vllmFs } of adopt ? chosen : []) {
    const folder = `${vllmFs?.base}_r${vllmFs?.rank}`;
    const other = ownerOf.get(folder);
    ownerOf.set(folder, namespace.digestHex);
    if (other === undefined) continue;
    const digests = `${other.slice(0, 12)} and ${namespace.digestHex.slice(0, 12)}`;
    throw invalid(
      "FROM",
      "adopt",
      `: ${folder} has the namespaces ${digests}, and vLLM's own files do not tell whose they are; choose one by --namespace`,
    );
  }
}

/** Blocks that a tier can take by what is known of it, without giving up others; Infinity without a capacity. */
async function roomBlocksOf(tier: TierRuntime, blockBytes: number): Promise<number> {
  if (tier.roomBlocks !== undefined) return tier.roomBlocks(blockBytes);
  return Math.floor((await freeBytesOf(tier)) / storedBlockBytes(blockBytes));
}

/** Copies one namespace; opening it in TO leaves its record there.
 * @throws KvferryError as `copyBlocks`, with the side's name. */
export async function copyNamespace(
  from: Side,
  to: Side,
  stored: StoredNamespace,
  options: Omit<CopyOptions, "roomBlocks">,
  counts: CopyCounts,
): Promise<void> {
  return withOpen("FROM", from, stored, async (source) => {
    const target = await targetShape(to, stored);
    const roomBlocks = await named("TO", () => roomBlocksOf(to.runtime, stored.blockBytes));
    await withOpen("TO", to, target, (sink) => copyBlocks(source, sink, { ...options, roomBlocks }, counts));
  });
}

/** What copying a namespace would have to do; makes nothing in TO.
 * @param to undefined where there is nothing yet. */
export async function missingInNamespace(
  from: Side,
  to: Side | undefined,
  stored: StoredNamespace,
  signal: AbortSignal,
): Promise<MissingCounts> {
  const known = to && (await to.runtime.namespaces()).find(({ namespace }) => isSame(namespace, stored.namespace));
  return withOpen("FROM", from, stored, (source) => {
    if (to === undefined || known === undefined) return countMissing(source, undefined, signal);
    return withOpen("TO", to, known, (sink) => countMissing(source, sink, signal));
  });
}

async function withOpen<T>(
  name: "FROM" | "TO",
  { runtime, tier }: Side,
  stored: StoredNamespace,
  work: (side: LayeredBackend) => Promise<T>,
): Promise<T> {
  const { namespace, keyBytes, blockBytes } = stored;
  const deadlineMs = Math.max(tier.deadlineMs, DEADLINE_MS_MIN);
  const side = await named(name, async () => {
    const layered = withTierLayers(runtime.createBackend(namespace, stored), { deadlineMs });
    await layered.backend.open({ namespace, keyBytes, blockBytes });
    return layered;
  });
  try {
    return await work(side);
  } finally {
    await side.backend.close();
  }
}

/** In vLLM's directory TO needs vLLM's own names: those that FROM has, or that TO has written down already. */
async function targetShape({ runtime, tier }: Side, stored: StoredNamespace): Promise<StoredNamespace> {
  if (!("layout" in tier) || tier.layout !== "vllm-fs" || stored.vllmFs !== undefined) return stored;
  const known = (await runtime.namespaces()).find(({ namespace }) => isSame(namespace, stored.namespace));
  if (known !== undefined) return known;
  throw invalid(
    "TO",
    "layout",
    `is vllm-fs, and vLLM's folder names for ${stored.namespace.digestHex.slice(0, 12)} are not known: let an engine use TO once, or copy to the layout kvferry`,
  );
}

function isSame(a: StoredNamespace["namespace"], b: StoredNamespace["namespace"]): boolean {
  return a.digestHex === b.digestHex;
}

import { KvferryError, type OffloadBackend, silentLogger } from "@kvferry/core";
import { type ResolvedConfig, resolveConfig, type ServerConfig } from "../config.js";
import { readConfigFile } from "../config-file.js";
import { type Storage, startStorage } from "../storage/storage.js";
import type { StoredNamespace, TierRuntime } from "../storage/tier-runtime.js";

/** Which storage a command is about. */
export interface StorageFlags {
  readonly config?: string;
  readonly data?: string;
  /** Name of one tier. */
  readonly tier?: string;
  /** First digits of one namespace's digest. */
  readonly namespace?: string;
}

/** A namespace's blocks in one tier, opened without an engine. */
export interface StoredBlocks {
  readonly tier: TierRuntime;
  readonly stored: StoredNamespace;
  readonly backend: OffloadBackend;
}

/** Calls `visit` for every namespace of every tier that the flags leave, one after the other; each is open only meanwhile.
 * @returns how many there were.
 * @throws KvferryError CONFIG_INVALID for a tier or namespace that is not there, or what the storage says. */
export async function eachStoredNamespace(
  flags: StorageFlags,
  visit: (blocks: StoredBlocks) => Promise<void>,
  signal?: AbortSignal,
): Promise<number> {
  const config = resolveConfig(configOf(flags));
  const storage = await startStorage(config.tiers, config.limits, silentLogger);
  let visited = 0;
  try {
    for (const tier of chosenTiers(config, storage, flags)) {
      for (const stored of await chosenNamespaces(tier, flags)) {
        if (signal?.aborted) return visited;
        await opened(tier, stored, visit);
        visited++;
      }
    }
  } finally {
    await storage.close();
  }
  if (visited === 0 && flags.namespace !== undefined) throw unknown("--namespace", flags.namespace);
  return visited;
}

function configOf({ config, data }: StorageFlags): ServerConfig {
  if (config !== undefined && data !== undefined) {
    throw new KvferryError("CONFIG_INVALID", "give --config or --data, not both", { operation: "config" });
  }
  if (config !== undefined) return readConfigFile(config);
  return data === undefined ? {} : { tiers: [{ backend: "posix", root: data }] };
}

function chosenTiers(config: ResolvedConfig, storage: Storage, flags: StorageFlags): readonly TierRuntime[] {
  if (flags.tier === undefined) return storage.tiers;
  const tiers = storage.tiers.filter(({ name }) => name === flags.tier);
  if (tiers.length > 0) return tiers;
  throw unknown("--tier", `${flags.tier}; there are ${config.tiers.map(({ name }) => name).join(", ")}`);
}

async function chosenNamespaces(tier: TierRuntime, flags: StorageFlags): Promise<readonly StoredNamespace[]> {
  const all = await tier.namespaces();
  const prefix = flags.namespace?.toLowerCase();
  return prefix === undefined ? all : all.filter(({ namespace }) => namespace.digestHex.startsWith(prefix));
}

async function opened(
  tier: TierRuntime,
  stored: StoredNamespace,
  visit: (blocks: StoredBlocks) => Promise<void>,
): Promise<void> {
  const { namespace, keyBytes, blockBytes } = stored;
  const backend = tier.createBackend(namespace, stored);
  await backend.open({ namespace, keyBytes, blockBytes });
  try {
    await visit({ tier, stored, backend });
  } finally {
    await backend.close();
  }
}

function unknown(flag: string, value: string): KvferryError {
  return new KvferryError("CONFIG_INVALID", `${flag}: there is no ${value}`, {
    operation: "config",
    context: { field: flag },
  });
}

import { isAbsolute } from "node:path";
import { DEFAULT_POLICY, KvferryError, type PolicyName, policyNamed } from "@kvferry/core";
import type { FileEngine, LayoutName } from "@kvferry/native";

/** vLLM's own names for a cache, as its `FileMapper` computes them; needed by the layout `vllm-fs`. */
export interface VllmFsNames {
  /** `<model>_<digest12>`: a folder name without slashes. */
  readonly base: string;
  readonly rank: number;
  /** Content of vLLM's config.json. */
  readonly config: string;
}

export interface PosixConfig {
  /** Absolute path of the folder that holds everything; made if missing. */
  readonly root: string;
  /** `kvferry` (default) or vLLM's own paths, `vllm-fs`. */
  readonly layout?: LayoutName;
  readonly vllmFs?: VllmFsNames;
  /** Take files without a footer, as vLLM's `fs` tier writes them, unverified. Default false: they are misses. */
  readonly adopt?: boolean;
  /** Bytes that all blocks of all namespaces below the root may take, whoever stores them: all servers that have it configured hold this bound
   * together, and evict to stay below it (docs/capacity.md). Default: no bound, and nothing is evicted. */
  readonly capacityBytes?: number;
  /** Files that there may be, besides. Needs `capacityBytes`. */
  readonly filesMax?: number;
  /** Which blocks are evicted first: a name of core's POLICIES. Needs `capacityBytes`. */
  readonly policy?: PolicyName;
  /** Bytes that the blocks of a tenant may take, by the namespace's tenant; who is not named shares the capacity alone. Needs `capacityBytes` and the
   * layout kvferry: vLLM's paths do not tell the tenant. */
  readonly quotas?: Readonly<Record<string, number>>;
  /** For file systems that can hang, as NFS on a hard mount does: blocks go through memory of the I/O threads, which costs a copy, and every call
   * ends when its signal aborts, whatever the file system does. With `engine`: the engine is made for it, or not. Default false. */
  readonly abandonable?: boolean;
  /** I/O threads of the backend's own engine; default by the number of cores. Not with `engine`. */
  readonly threads?: number;
  /** An engine to share with other backends; whoever made it closes it. */
  readonly engine?: FileEngine;
  /** fsync every block before it gets its name. Default false: a block torn by a power cut does not verify. */
  readonly fsync?: boolean;
  /** O_DIRECT: `auto` (default) uses it where a probe shows that it works. */
  readonly direct?: "auto" | "on" | "off";
  /** How a block gets its name: `link` needs O_TMPFILE; `auto` (default) probes for it. */
  readonly publish?: "auto" | "link" | "rename";
  /** Default 0o600 and 0o700: KV blocks hold what users wrote. */
  readonly fileMode?: number;
  readonly folderMode?: number;
  /** Damaged files kept for a look, the newest; default 64. */
  readonly quarantineFilesMax?: number;
}

type Optional = "vllmFs" | "capacityBytes" | "filesMax" | "threads" | "engine";

export type ResolvedPosixConfig = Required<Omit<PosixConfig, Optional | "quotas">> &
  Pick<PosixConfig, Optional> & { readonly quotas: ReadonlyMap<string, number> };

/** Fills in defaults.
 * @throws KvferryError CONFIG_INVALID with `context.field`. */
export function resolveConfig(config: PosixConfig): ResolvedPosixConfig {
  if (typeof config.root !== "string" || !isAbsolute(config.root)) {
    throw invalid("root", `must be an absolute path, got ${JSON.stringify(config.root)}`);
  }
  const layout = config.layout ?? "kvferry";
  if (layout !== "kvferry" && layout !== "vllm-fs")
    throw invalid("layout", `must be kvferry or vllm-fs, got ${layout}`);
  if (layout === "vllm-fs") checkVllmFs(config.vllmFs);
  checkCapacity(config, layout);
  if (config.engine !== undefined && config.threads !== undefined) {
    throw invalid("threads", "belongs to the backend's own engine; leave it out when `engine` is given");
  }
  if (config.engine !== undefined && (config.abandonable ?? config.engine.abandonable) !== config.engine.abandonable) {
    throw invalid("abandonable", "must be as the `engine` was made: leave it out");
  }
  return {
    ...config,
    layout,
    abandonable: config.abandonable ?? config.engine?.abandonable ?? false,
    adopt: config.adopt ?? false,
    fsync: config.fsync ?? false,
    direct: config.direct ?? "auto",
    publish: config.publish ?? "auto",
    fileMode: mode("fileMode", config.fileMode ?? 0o600),
    folderMode: mode("folderMode", config.folderMode ?? 0o700),
    policy: policyNamed(config.policy ?? DEFAULT_POLICY, "policy"),
    quotas: new Map(Object.entries(config.quotas ?? {})),
    quarantineFilesMax: config.quarantineFilesMax ?? 64,
  };
}

function checkCapacity({ capacityBytes, filesMax, policy, quotas }: PosixConfig, layout: LayoutName): void {
  if (capacityBytes !== undefined) checkCount("capacityBytes", capacityBytes);
  if (filesMax !== undefined) checkCount("filesMax", filesMax);
  for (const [tenant, bytes] of Object.entries(quotas ?? {})) checkCount(`quotas.${tenant}`, bytes);
  for (const [field, value] of Object.entries({ filesMax, policy, quotas })) {
    if (value !== undefined && capacityBytes === undefined) throw invalid(field, "needs `capacityBytes`: set it too");
  }
  if (quotas !== undefined && layout === "vllm-fs") {
    throw invalid("quotas", "need the layout kvferry: vLLM's paths do not tell the tenant");
  }
}

function checkCount(field: string, value: number): void {
  if (!Number.isSafeInteger(value) || value <= 0) throw invalid(field, `must be a whole number above 0, got ${value}`);
}

function checkVllmFs(names: VllmFsNames | undefined): void {
  if (names === undefined) {
    throw invalid(
      "vllmFs",
      "is needed by the layout vllm-fs: the engine's plugin sends it; another client must use the layout kvferry",
    );
  }
  if (!/^[^/\0]{1,200}_[0-9a-f]{12}$/.test(names.base) || names.base.startsWith(".")) {
    throw invalid("vllmFs.base", `must be vLLM's folder name <model>_<digest12>, got ${JSON.stringify(names.base)}`);
  }
  if (!Number.isSafeInteger(names.rank) || names.rank < 0) {
    throw invalid("vllmFs.rank", `must be a whole number of at least 0, got ${names.rank}`);
  }
}

function mode(field: string, value: number): number {
  if (!Number.isInteger(value) || value < 0 || value > 0o777)
    throw invalid(field, `must be a mode from 0 to 0o777, got ${value}`);
  return value;
}

function invalid(field: string, reason: string): KvferryError {
  return new KvferryError("CONFIG_INVALID", `posix backend: '${field}' ${reason}`, {
    operation: "config",
    context: { field },
  });
}

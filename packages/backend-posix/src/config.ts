import { isAbsolute } from "node:path";
import { KvferryError } from "@kvferry/core";
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
  /** Bytes that this namespace may take in this folder; stores beyond it are DROPPED with NO_SPACE. Default: no bound. */
  readonly capacityBytes?: number;
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

export type ResolvedPosixConfig = Required<Omit<PosixConfig, "vllmFs" | "capacityBytes" | "threads" | "engine">> &
  Pick<PosixConfig, "vllmFs" | "capacityBytes" | "threads" | "engine">;

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
  if (config.capacityBytes !== undefined && !(config.capacityBytes > 0)) {
    throw invalid("capacityBytes", `must be more than 0, got ${config.capacityBytes}`);
  }
  if (config.engine !== undefined && config.threads !== undefined) {
    throw invalid("threads", "belongs to the backend's own engine; leave it out when `engine` is given");
  }
  return {
    ...config,
    layout,
    adopt: config.adopt ?? false,
    fsync: config.fsync ?? false,
    direct: config.direct ?? "auto",
    publish: config.publish ?? "auto",
    fileMode: mode("fileMode", config.fileMode ?? 0o600),
    folderMode: mode("folderMode", config.folderMode ?? 0o700),
    quarantineFilesMax: config.quarantineFilesMax ?? 64,
  };
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

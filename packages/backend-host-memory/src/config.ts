import { isAbsolute } from "node:path";
import { KvferryError } from "@kvferry/core";

export interface HostMemoryConfig {
  /** Absolute path of the folder for all namespaces; made if missing. */
  readonly root: string;
  /** Files open at once, at most; default 16. */
  readonly filesMax?: number;
}

const FILES_MAX = 16;

/** @throws KvferryError CONFIG_INVALID with `context.field`. */
export function checkConfig({ root, filesMax = FILES_MAX }: HostMemoryConfig): Required<HostMemoryConfig> {
  if (typeof root !== "string" || !isAbsolute(root)) throw invalid("root", "must be an absolute path");
  if (!Number.isSafeInteger(filesMax) || filesMax < 1) throw invalid("filesMax", "must be a positive whole number");
  return { root, filesMax };
}

function invalid(field: string, reason: string): KvferryError {
  return new KvferryError("CONFIG_INVALID", `host-memory: ${field} ${reason}`, {
    operation: "config",
    context: { field },
  });
}

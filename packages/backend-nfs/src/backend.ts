import { type FileSystemHabits, PosixBackend } from "@kvferry/backend-posix";
import { type NfsConfig, type ResolvedNfsConfig, resolveConfig } from "./config.js";
import { LeafFinder } from "./leaf-finder.js";
import { nfsManifest } from "./manifest.js";
import { readNfsMount } from "./mount/read-mount.js";

/** The POSIX backend on NFS: one file a block, and blocks of other nodes found within `negativeTtlMs`; docs/nfs.md. */
export class NfsBackend extends PosixBackend {
  /** @throws KvferryError CONFIG_INVALID with `context.field`. */
  constructor(config: NfsConfig) {
    const resolved = resolveConfig(config);
    super(resolved.posix, nfsHabits(resolved));
  }
}

/** What the POSIX backend does in another way on NFS. */
function nfsHabits({ negativeTtlMs, touchDelayMs }: ResolvedNfsConfig): FileSystemHabits {
  return {
    manifest: nfsManifest,
    async checkRoot(root) {
      await readNfsMount(root);
    },
    createFinder: ({ config, files, presence }) =>
      new LeafFinder({
        ...{ layout: config.layout, files, presence, negativeTtlMs, touchDelayMs },
        nowMs: () => performance.now(),
      }),
  };
}

import { readFile, realpath } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { KvferryError, type Mount, mountOf, readMounts } from "@kvferry/core";
import { type NfsMountStats, parseMountStats } from "./mountstats.js";
import { isNfs, type NfsMount, nfsMountOf } from "./nfs-mount.js";

/** The NFS mount that a folder is on, which need not exist yet. A path that lies on NFS by its name is not touched: the mount may hang.
 * @throws KvferryError CONFIG_INVALID if it is not on NFS. */
export async function readNfsMount(path: string): Promise<NfsMount> {
  const mounts = await readMounts();
  let mount = mountOf(resolve(path), mounts);
  if (mount === undefined || !isNfs(mount)) mount = mountOf(await existingPath(resolve(path)), mounts);
  if (mount === undefined || !isNfs(mount)) throw notNfs(path, mount);
  return nfsMountOf(mount, await readMountStats(mount.point));
}

/** What the client has counted of a mount; undefined if it is not mounted (any more). */
export async function readMountStats(mountPoint: string): Promise<NfsMountStats | undefined> {
  const all = parseMountStats(await readFile("/proc/self/mountstats", "utf8"));
  return all.findLast((stats) => stats.mountPoint === mountPoint); // the last one mounted there
}

/** The nearest folder above that exists, without links. */
async function existingPath(path: string): Promise<string> {
  for (let at = path; ; at = dirname(at)) {
    try {
      return await realpath(at);
    } catch (thrown) {
      if ((thrown as NodeJS.ErrnoException).code !== "ENOENT" || at === "/") throw thrown;
    }
  }
}

function notNfs(path: string, mount: Mount | undefined): KvferryError {
  const where = mount === undefined ? "no mount that is known" : `${mount.type} (mounted on ${mount.point})`;
  return new KvferryError(
    "CONFIG_INVALID",
    `nfs backend: 'root' ${path} is on ${where}, not on NFS; use the backend posix there`,
    {
      operation: "open",
      context: { field: "root", path, type: mount?.type },
    },
  );
}

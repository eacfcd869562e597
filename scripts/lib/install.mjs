import { existsSync, statSync } from "node:fs";
import { join } from "node:path";

/** Whether `npm ci` is due. npm writes node_modules/.package-lock.json last, so its age is the age of the installation. */
export function installIsStale(root) {
  const stamp = join(root, "node_modules/.package-lock.json");
  if (!existsSync(stamp)) return true;
  const lockfile = join(root, "package-lock.json");
  return existsSync(lockfile) && statSync(lockfile).mtimeMs > statSync(stamp).mtimeMs;
}

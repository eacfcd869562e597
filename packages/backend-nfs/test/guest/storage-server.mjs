// The guest's NFS server, which every client of it waits for while it is away.
import { execSync } from "node:child_process";

let isUp = true;

export function stopStorage() {
  isUp = false;
  execSync("rpc.nfsd 0");
}

/** Nothing where it is up. */
export function startStorage() {
  if (isUp) return;
  execSync("rpc.nfsd -V 3 -V 4 8; echo Y > /proc/fs/nfsd/v4_end_grace");
  isUp = true;
}

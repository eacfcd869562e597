import { posixManifest } from "@kvferry/backend-posix";
import { defineManifest, type Manifest } from "@kvferry/core";

/** What a folder on NFS can do: what any folder can, for all hosts that mount it. */
export const nfsManifest: Manifest = defineManifest({ ...posixManifest, name: "nfs" });

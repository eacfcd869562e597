import { posixManifest } from "@kvferry/backend-posix";
import { defineManifest, type Manifest } from "@kvferry/core";

/** Blocks are files as the POSIX backend has them, so that it can do the same. */
export const parallelFsManifest: Manifest = defineManifest({ ...posixManifest, name: "parallel-fs" });

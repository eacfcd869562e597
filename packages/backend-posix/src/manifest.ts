import { defineManifest, type Manifest } from "@kvferry/core";

/** What a folder on a POSIX file system can do. Whether other hosts see it depends on the file system under it. */
export const posixManifest: Manifest = defineManifest({
  name: "posix",
  capabilities: {
    scan: true,
    remove: true,
    usage: true,
    zeroCopy: true,
    abandonable: false,
    sharedAcrossHosts: true,
    durable: true,
    verifiesPayload: true,
  },
});

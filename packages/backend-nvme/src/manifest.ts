import { defineManifest, type Manifest } from "@kvferry/core";

/** What segments on a local drive can do. Not `abandonable`: a read that hangs in the drive may still write into its slot. */
export const nvmeManifest: Manifest = defineManifest({
  name: "nvme",
  capabilities: {
    scan: true,
    remove: true,
    usage: true,
    zeroCopy: true,
    abandonable: false,
    sharedAcrossHosts: false,
    durable: true,
    verifiesPayload: true,
  },
});

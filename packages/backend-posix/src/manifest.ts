import { defineManifest, type Manifest } from "@kvferry/core";

/** A file name has 255 bytes at most: two hex digits a byte of the key, and `.kvb`. */
const KEY_BYTES_MAX = 125;

/** What a folder on a POSIX file system can do. Whether other hosts see it depends on the file system under it. */
export const posixManifest: Manifest = defineManifest({
  name: "posix",
  capabilities: {
    scan: true,
    remove: true,
    usage: true,
    sharedAcrossHosts: true,
    zeroCopy: true,
    durable: true,
    verifiesPayload: true,
    abandonable: false,
  },
  limits: { keyBytesMax: KEY_BYTES_MAX },
});

/** What is left of it with the setting `abandonable`, and comes in return. */
export function abandonable(manifest: Manifest): Manifest {
  return defineManifest({
    ...manifest,
    capabilities: { ...manifest.capabilities, zeroCopy: false, abandonable: true },
  });
}

import { type Capabilities, defineManifest, type Manifest } from "@kvferry/core";

/** A file name has 255 bytes at most: two hex digits a byte of the key, and `.kvb`. */
const KEY_BYTES_MAX = 125;

/** What a folder on a POSIX file system can do. Whether other hosts see it depends on the file system under it. */
export const posixManifest: Manifest = manifest({ zeroCopy: true, abandonable: false });

/** … with the setting `abandonable`. */
export const abandonablePosixManifest: Manifest = manifest({ zeroCopy: false, abandonable: true });

function manifest(differences: Pick<Capabilities, "zeroCopy" | "abandonable">): Manifest {
  return defineManifest({
    name: "posix",
    capabilities: {
      scan: true,
      remove: true,
      usage: true,
      sharedAcrossHosts: true,
      durable: true,
      verifiesPayload: true,
      ...differences,
    },
    limits: { keyBytesMax: KEY_BYTES_MAX },
  });
}

import { defineManifest, type Manifest } from "@kvferry/core";

/** A file name has 255 bytes at most: two hex digits a byte of the key, and `.kvb`. */
const KEY_BYTES_MAX = 125;

/** What a folder on a remote host can do. No `zeroCopy`: every byte is encrypted from one buffer into another. `abandonable`: bytes of a slot are
 * copied into a request in the moment it is made, replies that come after an abort go nowhere. */
export const sftpManifest: Manifest = defineManifest({
  name: "sftp",
  capabilities: {
    scan: true,
    remove: true,
    usage: true,
    zeroCopy: false,
    abandonable: true,
    sharedAcrossHosts: true,
    durable: true,
    verifiesPayload: true,
  },
  limits: { keyBytesMax: KEY_BYTES_MAX },
});

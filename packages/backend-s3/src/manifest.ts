import { defineManifest, type Manifest } from "@kvferry/core";

/** Storages that keep objects as files (MinIO, versitygw) take at most 255 bytes between two slashes: two hex digits a byte of the key. */
const KEY_BYTES_MAX = 125;

/** What S3 can do. No `zeroCopy`: stores go from the slot into the socket as they are, but loads pass through Node's receive buffers.
 * `abandonable`: the socket is closed in the moment of the abort, after which the kernel has nothing of the slot left to read, and what was
 * received goes nowhere. */
export const s3Manifest: Manifest = defineManifest({
  name: "s3",
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

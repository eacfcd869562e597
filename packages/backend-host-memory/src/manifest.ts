import { defineManifest, type Manifest } from "@kvferry/core";

/** What this backend can do. What is left out is false: the call then answers UNSUPPORTED, and the conformance suite holds the backend
 * to whatever is true. Not `abandonable`: a read that hangs may still write into its slot. */
export const hostMemoryManifest: Manifest = defineManifest({
  name: "host-memory",
  capabilities: { scan: true, remove: true, durable: true, zeroCopy: true },
  limits: { keyBytesMax: 120 }, // in hex and with the suffix it must fit into a file name of 255 bytes
});

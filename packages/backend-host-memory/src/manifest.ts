import { defineManifest, type Manifest } from "@kvferry/core";

/** What this backend can do. Blocks are verified, since memory errs too, and gone with the process. Not `zeroCopy`: a block is copied between region and
 * arena. Not `abandonable`: a copy under way is finished first; it takes microseconds. */
export const hostMemoryManifest: Manifest = defineManifest({
  name: "host-memory",
  capabilities: { scan: true, remove: true, usage: true, verifiesPayload: true },
});

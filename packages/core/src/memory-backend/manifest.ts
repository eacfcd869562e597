import { defineManifest, type Manifest } from "../manifest.js";

/**
 * What the memory backend can do. `abandonable`, because it copies on the event loop and looks at the signal before each block: once
 * the signal is aborted nothing can touch a slot. Not `zeroCopy`: a block is copied between region and store. Not
 * `verifiesPayload`: nothing checks what lies in memory. `durable` is a matter of where the blocks are kept.
 */
export function memoryManifest(durable: boolean): Manifest {
  return defineManifest({
    name: "memory",
    capabilities: { scan: true, remove: true, usage: true, abandonable: true, durable },
  });
}

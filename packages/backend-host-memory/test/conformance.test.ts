import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { conformance } from "@kvferry/testkit";
import { describe, it } from "vitest";
import { HostMemoryBackend } from "../src/index.js";

conformance({
  name: "host-memory",
  test: { describe, it },
  factory: {
    async create() {
      const root = await mkdtemp(join(tmpdir(), "kvferry-host-memory-"));
      const backend = new HostMemoryBackend({ root });
      return {
        backend,
        reopen: async () => new HostMemoryBackend({ root }),
        damage: {
          leaveTempFile: () => writeFile(join(root, backend.context.namespace.digestHex, "tmp", "left"), "half a bl"),
        },
        cleanup: () => rm(root, { recursive: true, force: true }),
      };
    },
  },
});

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { conformance } from "@kvferry/testkit";
import { describe, it } from "vitest";
import { MyStorageBackend } from "../src/index.js";

conformance({
  name: "my-storage",
  test: { describe, it },
  factory: {
    async create() {
      const root = await mkdtemp(join(tmpdir(), "kvferry-my-storage-"));
      const backend = new MyStorageBackend({ root });
      return {
        backend,
        reopen: async () => new MyStorageBackend({ root }),
        damage: {
          leaveTempFile: () => writeFile(join(root, backend.context.namespace.digestHex, "tmp", "left"), "half a bl"),
        },
        cleanup: () => rm(root, { recursive: true, force: true }),
      };
    },
  },
});

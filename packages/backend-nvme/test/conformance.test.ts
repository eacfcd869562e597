import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { conformance } from "@kvferry/testkit";
import { describe, it } from "vitest";
import { NvmeBackend } from "../src/index.js";

conformance({
  name: "nvme",
  test: { describe, it },
  factory: {
    async create() {
      const root = await mkdtemp(join(tmpdir(), "kvferry-nvme-"));
      const backend = new NvmeBackend({ root });
      return {
        backend,
        reopen: async () => new NvmeBackend({ root }),
        damage: {
          leaveTempFile: () => writeFile(join(root, backend.context.namespace.digestHex, "tmp", "left"), "half a bl"),
        },
        cleanup: () => rm(root, { recursive: true, force: true }),
      };
    },
  },
});

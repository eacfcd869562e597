import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { conformance } from "@kvferry/testkit";
import { describe, it } from "vitest";
import { S3Backend } from "../src/index.js";

conformance({
  name: "s3",
  test: { describe, it },
  factory: {
    async create() {
      const root = await mkdtemp(join(tmpdir(), "kvferry-s3-"));
      const backend = new S3Backend({ root });
      return {
        backend,
        reopen: async () => new S3Backend({ root }),
        damage: {
          leaveTempFile: () => writeFile(join(root, backend.context.namespace.digestHex, "tmp", "left"), "half a bl"),
        },
        cleanup: () => rm(root, { recursive: true, force: true }),
      };
    },
  },
});

import { createMemoryStorage, MemoryBackend } from "@kvferry/core";
import { describe, it } from "vitest";
import { conformance } from "../src/index.js";

conformance({
  name: "memory",
  test: { describe, it },
  factory: { create: async () => ({ backend: new MemoryBackend(), cleanup: async () => {} }) },
});

conformance({
  name: "memory over a shared storage",
  test: { describe, it },
  factory: {
    async create() {
      const storage = createMemoryStorage();
      return {
        backend: new MemoryBackend({ storage }),
        reopen: async () => new MemoryBackend({ storage }),
        cleanup: async () => {},
      };
    },
  },
});

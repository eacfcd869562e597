import { createFileEngine } from "@kvferry/native";
import { conformance } from "@kvferry/testkit";
import { afterAll, describe, it } from "vitest";
import { HostArena, HostMemoryBackend } from "../src/index.js";

const MIB = 1024 * 1024;
const engine = createFileEngine({ threads: 4 });
afterAll(() => engine.close());

conformance({
  name: "host-memory",
  test: { describe, it },
  factory: {
    async create() {
      const arena = new HostArena({ capacityBytes: 16 * MIB, engine });
      return { backend: new HostMemoryBackend({ arena }), cleanup: () => arena.close() };
    },
  },
});

import {
  createMemoryStorage,
  IntegrityLayer,
  MemoryBackend,
  type OffloadBackend,
  TieredStore,
  type TierOptions,
} from "@kvferry/core";
import { describe, it } from "vitest";
import { type BackendFactory, conformance } from "../src/index.js";
import { Settled } from "./tiers.js";

/** Compositions of memory backends; the last tier keeps its blocks where another instance finds them. */
function tiered(tiers: (durable: OffloadBackend) => readonly TierOptions[]): BackendFactory {
  return {
    async create() {
      const storage = createMemoryStorage();
      const make = () => tiers(new MemoryBackend({ storage }));
      return {
        backend: new Settled(new TieredStore({ tiers: make() })),
        reopen: async () => new Settled(new TieredStore({ tiers: make() })),
        cleanup: async () => storage.clear(),
      };
    },
  };
}

const fast = (): OffloadBackend => new MemoryBackend();
const small = { capacityBytes: 60_000, policy: "lru" } as const;

const compositions: Readonly<Record<string, (durable: OffloadBackend) => readonly TierOptions[]>> = {
  "two tiers, both written through": (durable) => [
    { name: "fast", backend: fast() },
    { name: "slow", backend: durable },
  ],
  "two tiers, the slow one written back": (durable) => [
    { name: "fast", backend: fast() },
    { name: "slow", backend: durable, write: "back" },
  ],
  "two tiers, the fast one for a handful of blocks": (durable) => [
    { name: "fast", backend: fast(), ...small },
    { name: "slow", backend: durable },
  ],
  "three tiers, each used in another way": (durable) => [
    { name: "fast", backend: fast(), ...small },
    { name: "middle", backend: new IntegrityLayer(new MemoryBackend()), write: "none" },
    { name: "slow", backend: durable },
  ],
};

for (const [name, tiers] of Object.entries(compositions)) {
  conformance({ name: `tiered: ${name}`, test: { describe, it }, factory: tiered(tiers) });
}

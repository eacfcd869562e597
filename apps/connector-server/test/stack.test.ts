// The kit over what the server really puts together: tiers, layers and all.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createNamespace, type OffloadBackend, silentLogger } from "@kvferry/core";
import { type BackendFactory, type CreateOptions, conformance } from "@kvferry/testkit";
import { describe, it } from "vitest";
import { type Storage, startStorage } from "../src/storage/storage.js";
import { resolveTiers, type TierConfig } from "../src/storage/tier-config.js";
import { namespace } from "./helpers.js";

const LIMITS = { operationsMax: 16, batchKeysMax: 4096 };
const MEBIBYTE = 2 ** 20;
const sink = { count() {}, observe() {}, gauge() {} };
const notHere = "the tiers' own packages test it";

/** Hosts that share the last tier: each has drives of its own, which it finds again after a restart. */
class Hosts {
  readonly #tiersOf: (host: number) => readonly TierConfig[];
  readonly #running: Map<number, { readonly storage: Storage; readonly backend: OffloadBackend }> = new Map();

  constructor(tiersOf: (host: number) => readonly TierConfig[]) {
    this.#tiersOf = tiersOf;
  }

  /** Of the first host that has ended, or was never there. */
  async backend({ keyBytes, blockBytes }: CreateOptions): Promise<OffloadBackend> {
    for (const [host, { storage, backend }] of this.#running) {
      if (backend.state !== "closed") continue;
      await storage.close();
      this.#running.delete(host);
    }
    let host = 0;
    while (this.#running.has(host)) host++;
    const storage = await startStorage(resolveTiers(this.#tiersOf(host)), LIMITS, silentLogger);
    const shape = { keyBytes, blockBytes, vllmFs: undefined };
    const { backend } = storage.createBackend(createNamespace(namespace), shape, sink);
    this.#running.set(host, { storage, backend });
    return backend;
  }

  async close(): Promise<void> {
    for (const { storage } of this.#running.values()) await storage.close();
  }
}

function factory(tiersIn: (folder: string, host: number) => readonly TierConfig[]): BackendFactory {
  return {
    async create(options) {
      const folder = mkdtempSync(join(tmpdir(), "kvferry-stack-"));
      const hosts = new Hosts((host) => tiersIn(folder, host));
      return {
        backend: await hosts.backend(options),
        reopen: () => hosts.backend(options),
        damage: {
          impossible: {
            flip: notHere,
            truncate: notHere,
            leaveTempFile: notHere,
            noSpace: notHere,
            denyPermission: notHere,
          },
        },
        async cleanup() {
          await hosts.close();
          rmSync(folder, { recursive: true, force: true });
        },
      };
    },
  };
}

const memory = { backend: "memory", capacity: 32 * MEBIBYTE } as const;
const nvme = (folder: string, host: number): TierConfig => ({
  ...{ backend: "nvme", path: join(folder, `nvme-${host}`), capacity: 64 * MEBIBYTE, segment: 2 * MEBIBYTE },
});
const posix = (folder: string): TierConfig => ({ backend: "posix", root: join(folder, "posix") });

const test = { describe, it };
conformance({ name: "memory over nvme", test, factory: factory((folder, host) => [memory, nvme(folder, host)]) });
conformance({
  name: "memory, nvme, posix",
  test,
  factory: factory((folder, host) => [memory, nvme(folder, host), posix(folder)]),
});

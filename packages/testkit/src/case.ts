import type { Capabilities, Namespace, OffloadBackend } from "@kvferry/core";
import { Bench, contextOf, freshNamespace } from "./bench.js";
import type { BackendFactory, CreatedBackend, DamageHookName, DamageHooks } from "./factory.js";

/** A test of the kit. */
export interface ConformanceCase {
  /** Says what a user may rely on. Stable: reports and skips go by it. */
  readonly name: string;
  /** The capability that must be true for this test to mean anything. */
  readonly needs?: keyof Capabilities;
  run(kit: CaseKit): Promise<void>;
}

/** Thrown by a test that has nothing to test here; it counts as skipped. */
export class SkipCase extends Error {
  override readonly name: string = "SkipCase";
}

export interface SetupOptions {
  readonly blockBytes?: number;
  readonly keyBytes?: number;
  readonly namespace?: Namespace;
}

const BLOCK_BYTES = 8192;
const KEY_BYTES = 36;

/** What one test has: backends made for it, and closed and cleaned up after it. */
export class CaseKit {
  readonly #factory: BackendFactory;
  readonly #created: CreatedBackend[] = [];
  readonly #backends: OffloadBackend[] = [];

  constructor(factory: BackendFactory) {
    this.#factory = factory;
  }

  /** A new storage with a backend over it that has not been opened. */
  async create(options: SetupOptions = {}): Promise<CreatedBackend> {
    const { blockBytes = BLOCK_BYTES, keyBytes = KEY_BYTES } = options;
    const created = await this.#factory.create({ blockBytes, keyBytes });
    this.#created.push(created);
    this.#backends.push(created.backend);
    return created;
  }

  /** An open backend over a new storage; sizes that are not given are brought within the backend's limits. */
  async setup(options: SetupOptions = {}): Promise<Bench> {
    const { namespace = freshNamespace() } = options;
    const blockBytes = options.blockBytes ?? BLOCK_BYTES;
    const keyBytes = options.keyBytes ?? KEY_BYTES;
    const created = await this.create({ blockBytes, keyBytes });
    const { limits } = created.backend.manifest;
    const sizes = {
      blockBytes: options.blockBytes ?? Math.min(Math.max(blockBytes, limits.blockBytesMin), limits.blockBytesMax),
      keyBytes: options.keyBytes ?? Math.min(keyBytes, limits.keyBytesMax),
    };
    if (sizes.blockBytes !== blockBytes || sizes.keyBytes !== keyBytes) return this.setup({ ...sizes, namespace });
    await created.backend.open(contextOf(namespace, blockBytes, keyBytes));
    return new Bench(created, created.backend, namespace, blockBytes, keyBytes);
  }

  /** Another instance over the storage of `bench`, not opened. */
  async another({ created, backend }: Bench): Promise<OffloadBackend> {
    if (created.reopen === undefined) {
      const { durable, sharedAcrossHosts } = backend.manifest.capabilities;
      if (durable || sharedAcrossHosts) {
        const capability = durable ? "durable" : "sharedAcrossHosts";
        throw new Error(`the manifest says ${capability}, so the factory's create() must also give reopen()`);
      }
      throw new SkipCase("the factory gives no reopen(), and the manifest promises nothing that needs it");
    }
    const again = await created.reopen();
    this.#backends.push(again);
    return again;
  }

  /** Another instance over the storage of `bench`, open; by default in the same namespace. */
  async reopened(bench: Bench, namespace: Namespace = bench.namespace): Promise<Bench> {
    const again = await this.another(bench);
    await again.open(contextOf(namespace, bench.blockBytes, bench.keyBytes));
    return new Bench(bench.created, again, namespace, bench.blockBytes, bench.keyBytes);
  }

  /** The damage hooks, with the named ones there for certain.
   * @throws Error that names the missing hook, or SkipCase where it is declared impossible or nothing promises it. */
  damage<Name extends DamageHookName>(
    { created, backend }: Bench,
    ...names: Name[]
  ): DamageHooks & Required<Pick<DamageHooks, Name>> {
    const { damage } = created;
    const { durable, verifiesPayload } = backend.manifest.capabilities;
    for (const name of names) {
      if (damage?.[name] !== undefined) continue;
      const reason = damage?.impossible?.[name];
      if (reason !== undefined) throw new SkipCase(`${name}: ${reason}`);
      if (durable && verifiesPayload) {
        throw new Error(
          `the manifest says durable and verifiesPayload, so the factory's create() must give damage.${name}, ` +
            `or say why there is none: damage: { impossible: { ${name}: "reason" } }`,
        );
      }
      throw new SkipCase(`the factory gives no damage.${name}, and the manifest is not durable and verifiesPayload`);
    }
    return damage as DamageHooks & Required<Pick<DamageHooks, Name>>;
  }

  skip(reason: string): never {
    throw new SkipCase(reason);
  }

  /** Closes every backend and removes every storage, whatever happened. */
  async end(): Promise<void> {
    const failures: unknown[] = [];
    for (const step of [
      ...this.#backends.map((each) => () => each.close()),
      ...this.#created.map((each) => () => each.cleanup()),
    ]) {
      await step().catch((thrown: unknown) => failures.push(thrown));
    }
    if (failures.length > 0) throw failures[0];
  }
}

import {
  type Capabilities,
  createMemoryStorage,
  MemoryBackend,
  type MemoryStorage,
  type OffloadBackend,
} from "@kvferry/core";
import { type BackendFactory, type DamageHooks, type Fault, FaultyBackend } from "../src/index.js";

type Wrap = (inner: OffloadBackend) => OffloadBackend;

export interface StackOptions {
  /** Puts layers around the memory backend. */
  readonly wrap: Wrap;
  readonly capabilities?: Partial<Capabilities>;
}

/** Memory backends over one storage, each within a `FaultyBackend` (to run out of space by) and whatever `wrap` puts around. Damage
 * reaches into the storage. */
export function memoryStack({ wrap, capabilities = {} }: StackOptions): BackendFactory {
  return {
    async create() {
      const storage = createMemoryStorage();
      const bottom = (): FaultyBackend => new FaultyBackend(new MemoryBackend({ storage }), { capabilities });
      const faulty = bottom();
      const backend = wrap(faulty);
      return {
        backend,
        reopen: async () => wrap(bottom()),
        damage: memoryDamage(storage, backend, faulty),
        cleanup: async () => storage.clear(),
      };
    },
  };
}

function memoryDamage(storage: MemoryStorage, backend: OffloadBackend, faulty: FaultyBackend): DamageHooks {
  let faults: Fault[] = [];
  const change = (key: Uint8Array, how: (bytes: Uint8Array) => Uint8Array): void => {
    const blocks = storage.get(backend.context.namespace.digestHex)?.blocks;
    const name = Buffer.from(key).toString("latin1");
    const block = blocks?.get(name);
    if (blocks === undefined || block === undefined) throw new Error("the block to damage is not there");
    blocks.set(name, { ...block, bytes: how(block.bytes) });
  };
  return {
    async flip(key, byteOffset) {
      change(key, (bytes) => bytes.map((byte, i) => (i === byteOffset ? byte ^ 1 : byte)));
    },
    async noSpace() {
      faults.push(faulty.fail("store", "NO_SPACE"));
    },
    async denyPermission() {
      faults.push(faulty.fail("store", "PERMISSION"));
    },
    async restore() {
      for (const fault of faults) fault.remove();
      faults = [];
    },
    impossible: {
      truncate: "a block in memory has its length from the backend, which takes another one for absent",
      leaveTempFile: "nothing is written step by step",
    },
  };
}

import { ParallelFsBackend, requireParallelFs, watchTargets } from "@kvferry/backend-parallel-fs";
import { KvferryError, type Logger } from "@kvferry/core";
import { startPosixTier } from "./posix-tier.js";
import type { ResolvedParallelFsTier } from "./tier-config.js";
import type { TierRuntime } from "./tier-runtime.js";

/** A posix tier on Lustre or Storage Scale, which also tells how full Lustre's OSTs are. */
export async function startParallelFsTier(
  tier: ResolvedParallelFsTier,
  field: string,
  blocksMax: number,
  logger: Logger,
): Promise<TierRuntime> {
  const { striping, stripeCount, stripeBytes, pool, dataOnMdt, ...folder } = tier;
  const own = {
    ...(striping !== undefined && { striping }),
    ...(stripeCount !== undefined && { stripeCount }),
    ...(stripeBytes !== undefined && { stripeBytes }),
    ...(pool !== undefined && { pool }),
    ...(dataOnMdt !== undefined && { dataOnMdt }),
  };
  const { kind } = await requireParallelFs(tier.root).catch((thrown) => {
    throw withField(thrown, `${field}.root`);
  });
  new ParallelFsBackend({ root: tier.root, ...own }); // says now what is wrong with the settings
  const create = (config: ConstructorParameters<typeof ParallelFsBackend>[0]) =>
    new ParallelFsBackend({ ...config, ...own });
  const runtime = await startPosixTier({ ...folder, backend: "posix" }, field, blocksMax, create);
  const watch = kind === "lustre" ? await watchTargets({ folder: tier.root, pool, logger }) : undefined;
  return {
    ...runtime,
    backend: tier.backend,
    gauges: () => ({ ...runtime.gauges(), ...watch?.gauges }),
    async close() {
      watch?.close();
      await runtime.close();
    },
  };
}

function withField(thrown: unknown, field: string): unknown {
  if (!(thrown instanceof KvferryError)) return thrown;
  const context = { ...thrown.context, field };
  return new KvferryError(thrown.code, thrown.message, { operation: "open", context, cause: thrown });
}

import type { PosixConfig } from "@kvferry/backend-posix";
import { KvferryError } from "@kvferry/core";

/** `auto`: the folder gets a layout if it has none of its own, nor got one from the folder above; `keep`: never; `replace`: always. */
export type Striping = "auto" | "keep" | "replace";

const STRIPINGS: readonly Striping[] = ["auto", "keep", "replace"];

/** lctl-pool_new(8): letters, digits, `-` and `_`, 15 at most. */
const POOL = /^[A-Za-z0-9_-]{1,15}$/;

/** Stripe sizes and the ends of components are multiples of it: lfs-setstripe(1). */
export const STRIPE_STEP_BYTES: number = 64 << 10;
/** A stripe size is a 32-bit number. */
export const STRIPE_BYTES_MAX: number = 2 ** 32 - STRIPE_STEP_BYTES;
/** Of files whose layout is large: LOV_MAX_STRIPE_COUNT. */
const STRIPES_MAX = 2000;

export interface ParallelFsConfig extends PosixConfig {
  /** Lustre: when the namespace's folder gets a layout. Default `auto`. */
  readonly striping?: Striping;
  /** Lustre: OSTs that a block's file lies on; -1: all. Default by the block's size: one, and more above 16 MiB. */
  readonly stripeCount?: number;
  /** Lustre: bytes on an OST before the next one's turn; a multiple of 64 KiB. Default: by the block's size. */
  readonly stripeBytes?: number;
  /** Lustre: OST pool that blocks are on. Default: that of the folder above. */
  readonly pool?: string;
  /** Lustre: blocks whose file has at most 1 MiB lie on the MDT as a whole. Default false: it takes the MDT's space, which is for names. */
  readonly dataOnMdt?: boolean;
}

/** The settings that only Lustre has. */
export type LustreConfig = Pick<ParallelFsConfig, "striping" | "stripeCount" | "stripeBytes" | "pool" | "dataOnMdt">;

const LUSTRE_FIELDS: readonly (keyof LustreConfig)[] = ["striping", "stripeCount", "stripeBytes", "pool", "dataOnMdt"];

/** Which of Lustre's settings are there. */
export function lustreFieldsOf(config: LustreConfig): readonly string[] {
  return LUSTRE_FIELDS.filter((field) => config[field] !== undefined);
}

/** @throws KvferryError CONFIG_INVALID with `context.field`. */
export function checkLustreConfig({ striping, stripeCount, stripeBytes, pool }: LustreConfig): void {
  if (striping !== undefined && !STRIPINGS.includes(striping))
    throw invalid("striping", `must be one of ${STRIPINGS.join(", ")}, got ${striping}`);
  if (stripeCount !== undefined && stripeCount !== -1 && !isBetween(stripeCount, 1, STRIPES_MAX))
    throw invalid("stripeCount", `must be 1 to ${STRIPES_MAX}, or -1 for all OSTs, got ${stripeCount}`);
  const whole = stripeBytes === undefined || stripeBytes % STRIPE_STEP_BYTES === 0;
  if (stripeBytes !== undefined && !(whole && isBetween(stripeBytes, STRIPE_STEP_BYTES, STRIPE_BYTES_MAX)))
    throw invalid("stripeBytes", `must be a multiple of 64 KiB below 4 GiB, got ${stripeBytes}`);
  if (pool !== undefined && !POOL.test(pool))
    throw invalid("pool", `must be the name of an OST pool without the file system's, got ${JSON.stringify(pool)}`);
}

function isBetween(value: number, min: number, max: number): boolean {
  return Number.isSafeInteger(value) && value >= min && value <= max;
}

export function invalid(field: string, reason: string): KvferryError {
  return new KvferryError("CONFIG_INVALID", `parallel-fs backend: '${field}' ${reason}`, {
    operation: "config",
    context: { field },
  });
}

import { KvferryError } from "../errors.js";
import { HazardPolicy } from "./hazard.js";
import { LruPolicy } from "./lru.js";
import type { PolicyFactory } from "./policy.js";
import { S3FifoPolicy } from "./s3-fifo.js";

export type PolicyName = "lru" | "s3-fifo" | "hazard";

/** The policies that the configuration can name. */
export const POLICIES: Readonly<Record<PolicyName, PolicyFactory>> = {
  lru: (options) => new LruPolicy(options),
  "s3-fifo": (options) => new S3FifoPolicy(options),
  hazard: (options) => new HazardPolicy(options),
};

/** What a tier uses that names none. */
export const DEFAULT_POLICY: PolicyName = "hazard";

/** Checks the name of a policy as it stands in a configuration.
 * @param field where it stands, as the message names it.
 * @throws KvferryError CONFIG_INVALID naming the field and the policies there are. */
export function policyNamed(name: unknown, field: string = "policy"): PolicyName {
  if (typeof name === "string" && Object.hasOwn(POLICIES, name)) return name as PolicyName;
  const names = Object.keys(POLICIES).join(", ");
  throw new KvferryError(
    "CONFIG_INVALID",
    `${field}: ${JSON.stringify(name)} is no eviction policy; use one of ${names}`,
    {
      operation: "config",
      context: { field },
    },
  );
}

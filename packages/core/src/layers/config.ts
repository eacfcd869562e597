import { KvferryError } from "../errors.js";

/** Checks that each setting is a number of at least its minimum; what is left out is fine.
 * @throws KvferryError CONFIG_INVALID with `context.field`. */
export function checkNumbers<Config extends object>(
  layer: string,
  config: Config,
  minima: Partial<Record<keyof Config & string, number>>,
): void {
  for (const [field, min] of Object.entries(minima) as [keyof Config & string, number][]) {
    const value: unknown = config[field];
    if (value === undefined || (typeof value === "number" && value >= min)) continue;
    throw new KvferryError(
      "CONFIG_INVALID",
      `${layer}: ${field} must be a number of at least ${min}, got ${String(value)}`,
      {
        operation: "config",
        context: { field },
      },
    );
  }
}

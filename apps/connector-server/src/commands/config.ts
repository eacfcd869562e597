import { resolveConfig } from "../config.js";
import { configSchema, readConfigFile } from "../config-file.js";

export function printSchema(): void {
  process.stdout.write(`${JSON.stringify(configSchema(), null, 2)}\n`);
}

/** @throws KvferryError CONFIG_INVALID with a line for each problem. */
export function checkConfig(file: string): void {
  resolveConfig(readConfigFile(file));
  process.stdout.write(`${file}: fine\n`);
}

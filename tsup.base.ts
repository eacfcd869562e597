import type { Options } from "tsup";

/**
 * The JavaScript half of a package's build: ES modules for the oldest Node we run on. Declarations come from `tsc`
 * (tsconfig.build.json), which runs after this because `clean` empties `dist`.
 */
export function library(entry: string[] = ["src/index.ts"]): Options {
  return { entry, format: "esm", target: "node20", platform: "node", dts: false, sourcemap: true, clean: true };
}

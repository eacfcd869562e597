import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "tsup";
import { onTestFinished } from "vitest";
import { connectUnix } from "@kvferry/native";
import { until } from "./helpers.js";

const packageFolder = join(dirname(fileURLToPath(import.meta.url)), "..");
let bundle: Promise<string> | undefined;

/** The command, bundled from its sources, so that tests need no build. It lies where it finds package.json and schema. */
export function commandLine(): Promise<string> {
  bundle ??= bundleCommand();
  return bundle;
}

async function bundleCommand(): Promise<string> {
  const name = `cli-${process.pid}`;
  const outDir = join(packageFolder, "build");
  await build({
    entry: { [name]: join(packageFolder, "src/cli.ts") },
    outDir,
    config: false,
    format: "esm",
    target: "node20",
    platform: "node",
    splitting: false,
    clean: false,
    dts: false,
    silent: true,
    tsconfig: join(packageFolder, "tsconfig.json"),
    noExternal: [/^@kvferry\/(?!native)/],
    external: ["@kvferry/native"],
    skipNodeModulesBundle: false,
    esbuildOptions(options) {
      options.conditions = ["kvferry-source", "import", "node"];
      options.packages = undefined;
    },
  });
  const file = join(outDir, `${name}.js`);
  process.on("exit", () => rmSync(file, { force: true }));
  return file;
}

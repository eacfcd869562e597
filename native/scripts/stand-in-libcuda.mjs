// Builds the stand-in for libcuda.so.1 (test/stand-in-libcuda), for tests alone: FOLDER/<version>/libcuda.so.1 for each version of the driver that differs.
// Usage: node native/scripts/stand-in-libcuda.mjs FOLDER
import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { compile, findCompiler } from "./compile.mjs";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "..");
const sources = "test/stand-in-libcuda";
/** As cuDriverGetVersion gives them. */
const VERSIONS = { 11.2: 11020, 11.8: 11080, 12.8: 12080, "13.0": 13000 };

/** Resolves to what the compiler had to say against it. */
export async function buildStandIn({ compiler, flags, objects, folder }) {
  const all = [...flags, "-fPIC", "-fvisibility=hidden"];
  const results = [];
  for (const file of readdirSync(join(root, sources)).filter((name) => name.endsWith(".cc") && name !== "version.cc")) {
    results.push(await compile(compiler, all, `${sources}/${file}`, objects));
  }
  const errors = results.flatMap(({ said }) => (said === undefined ? [] : [said]));
  for (const [name, number] of Object.entries(VERSIONS)) {
    const own = await compile(
      compiler,
      [...all, `-DSTAND_IN_CUDA_VERSION=${number}`],
      `${sources}/version.cc`,
      objects,
    );
    if (own.said !== undefined) errors.push(own.said);
    if (errors.length > 0) break;
    mkdirSync(join(folder, name), { recursive: true });
    const args = [...all, "-shared", "-Wl,-soname,libcuda.so.1", ...[...results, own].map(({ object }) => object)];
    const linked = spawnSync(compiler, [...args, "-o", join(folder, name, "libcuda.so.1")]);
    if (linked.status !== 0) errors.push(linked.stderr.toString());
  }
  return { errors };
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const folder = resolve(process.argv[2]);
  const flags = ["-O1", "-g", "-pthread"];
  const compiler = findCompiler(flags);
  if (compiler === undefined) throw new Error("no compiler for C++20 here");
  const objects = join(root, "build/stand-in-libcuda");
  mkdirSync(objects, { recursive: true });
  const { errors } = await buildStandIn({ compiler, flags, objects, folder });
  if (errors.length > 0) throw new Error(errors.join("\n"));
}

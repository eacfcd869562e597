// Compiles the C++ core and its tests without node-gyp and runs them.
// Usage: node native/scripts/test-native.mjs [--sanitize address,undefined | thread] [--json FILE] [--only NAME]
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { compile, findCompiler } from "./compile.mjs";
import { buildStandIn } from "./stand-in-libcuda.mjs";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "..");
const RUN_SECONDS_MAX = 300;
const { values } = parseArgs({
  options: { sanitize: { type: "string" }, json: { type: "string" }, only: { type: "string" } },
});

function finish(report, code) {
  if (values.json) writeFileSync(values.json, `${JSON.stringify(report)}\n`);
  process.exitCode = code;
}

async function compileAll(compiler, flags, objects) {
  const sources = ["common", "checksum", "region", "engine", "storage", "device", "socket"]
    .flatMap((folder) =>
      readdirSync(join(root, "src", folder), { recursive: true }).map((file) => `src/${folder}/${file}`),
    )
    .concat(readdirSync(join(root, "test/cpp")).map((file) => `test/cpp/${file}`))
    .filter((file) => file.endsWith(".cc"));
  const results = [];
  const queue = [...sources];
  const worker = async () => {
    for (let source = queue.shift(); source !== undefined; source = queue.shift()) {
      results.push(await compile(compiler, flags, source, objects));
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  return results;
}

/** Objects of former texts are of no more use. */
function removeOldObjects(objects) {
  for (const file of readdirSync(objects)) {
    const path = join(objects, file);
    const status = statSync(path, { throwIfNoEntry: false });
    if (status !== undefined && Date.now() - status.mtimeMs > 24 * 3600_000) rmSync(path, { force: true });
  }
}

async function main() {
  if (process.platform !== "linux") return finish({ passed: 0, failed: 0, skipped: 1, details: ["needs Linux"] }, 0);
  const sanitize = values.sanitize ? [`-fsanitize=${values.sanitize}`, "-fno-sanitize-recover=all"] : [];
  const flags = [...sanitize, values.sanitize ? "-O1" : "-O2", "-g", "-pthread", "-Wall", "-Wextra", "-Wpedantic"];
  const compiler = findCompiler(flags);
  if (compiler === undefined) {
    const wanted = values.sanitize ? ` with -fsanitize=${values.sanitize}` : "";
    console.log(`no compiler for C++20${wanted} here`);
    return finish({ passed: 0, failed: 0, skipped: 1, details: [`no compiler for C++20${wanted}`] }, 0);
  }
  const objects = join(root, "build/test-cpp", values.sanitize ?? "plain");
  mkdirSync(objects, { recursive: true });
  removeOldObjects(objects);
  const results = await compileAll(compiler, flags, objects);
  const errors = results.flatMap(({ said }) => (said === undefined ? [] : [said]));
  const scratch = mkdtempSync(join(tmpdir(), "kvferry-cpp-"));
  try {
    const binary = join(scratch, "tests");
    const standIn = await buildStandIn({ compiler, flags, objects, folder: join(scratch, "libcuda") });
    errors.push(...standIn.errors);
    if (errors.length === 0) {
      const linked = spawnSync(compiler, [...flags, ...results.map(({ object }) => object), "-o", binary, "-ldl"]);
      if (linked.status !== 0) errors.push(linked.stderr.toString());
    }
    if (errors.length > 0) {
      console.log(errors.join("\n"));
      return finish({ passed: 0, failed: 1, skipped: 0, details: errors }, 1);
    }
    const report = join(scratch, "report.json");
    const run = spawnSync(binary, [report, ...(values.only ? [values.only] : [])], {
      stdio: ["ignore", "inherit", "inherit"],
      timeout: RUN_SECONDS_MAX * 1000,
      env: {
        ...process.env,
        TSAN_OPTIONS: "halt_on_error=1",
        ASAN_OPTIONS: "detect_leaks=1",
        KVFERRY_STAND_IN_LIBCUDA: join(scratch, "libcuda"),
      },
    });
    if (!existsSync(report)) {
      const details = [`the tests ended with ${run.status ?? run.signal} before they were through`];
      return finish({ passed: 0, failed: 1, skipped: 0, details }, 1);
    }
    finish(JSON.parse(readFileSync(report, "utf8")), run.status ?? 1);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

await main();

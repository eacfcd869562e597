// Compiles the addon with node-gyp into prebuilds/<platform>/kvferry.node, unless that was made from the same sources.
// `--force` compiles anyway. Elsewhere than on Linux there is nothing to compile, and the loader says so.
import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { platformName } from "./platform.mjs";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "..");
const require = createRequire(import.meta.url);
/** Another build of the same tree is given up on after this. */
const LOCK_MINUTES = 15;

function sourcesHash(compiler) {
  const hash = createHash("sha256");
  const files = readdirSync(join(root, "src"), { recursive: true })
    .filter((file) => /\.(cc|h)$/.test(file))
    .map((file) => join("src", file));
  for (const file of [...files.sort(), "gyp/binding.gyp", "gyp/exports.map", "scripts/build-native.mjs"]) {
    hash
      .update(file)
      .update("\0")
      .update(readFileSync(join(root, file)))
      .update("\0");
  }
  for (const name of ["CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS"])
    hash.update(`${name}=${process.env[name] ?? ""}\0`);
  return hash.update(compiler).digest("hex");
}

function compilerVersion() {
  try {
    return execFileSync(process.env.CXX ?? "g++", ["--version"], { encoding: "utf8" }).split("\n")[0];
  } catch {
    throw new Error(
      "@kvferry/native needs a C++20 compiler (g++ 11 or clang++ 14, or newer) and make: apt-get install g++ make",
    );
  }
}

function compile() {
  const nodeGyp = join(dirname(require.resolve("node-gyp/package.json")), "bin/node-gyp.js");
  const prefix = resolve(process.execPath, "../..");
  const headers = existsSync(join(prefix, "include/node/node_version.h")) ? [`--nodedir=${prefix}`] : [];
  const args = [
    nodeGyp,
    "rebuild",
    "--directory",
    join(root, "gyp"),
    "--jobs",
    "max",
    "--loglevel",
    "warn",
    ...headers,
  ];
  const result = spawnSync(process.execPath, args, { cwd: root, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  if (result.status !== 0) {
    process.stderr.write(`${result.stdout ?? ""}${result.stderr ?? ""}`);
    throw new Error(`node-gyp ended with ${result.status ?? result.signal ?? result.error}`);
  }
}

/** Two builds of one tree must not share node-gyp's folder. A folder is the lock, because making one is atomic. */
async function withLock(action) {
  const lock = join(root, "gyp/.lock");
  for (;;) {
    try {
      mkdirSync(lock);
      break;
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
      const madeAtMs = statSync(lock, { throwIfNoEntry: false })?.mtimeMs ?? 0;
      if (Date.now() - madeAtMs > LOCK_MINUTES * 60_000) rmSync(lock, { recursive: true, force: true });
      await new Promise((done) => setTimeout(done, 200));
    }
  }
  try {
    action();
  } finally {
    rmSync(lock, { recursive: true, force: true });
  }
}

function build(force) {
  const folder = join(root, "prebuilds", platformName());
  const output = join(folder, "kvferry.node");
  const stamp = join(root, "gyp/build", `${platformName()}.sha256`);
  const hash = sourcesHash(compilerVersion());
  if (!force && existsSync(output) && existsSync(stamp) && readFileSync(stamp, "utf8") === hash) return;
  compile();
  mkdirSync(folder, { recursive: true });
  // Renamed into place: a process that has the old file mapped keeps it.
  const temporary = join(folder, `.${process.pid}.node`);
  copyFileSync(join(root, "gyp/build/Release/kvferry.node"), temporary);
  renameSync(temporary, output);
  writeFileSync(stamp, hash);
  console.log(`built prebuilds/${platformName()}/kvferry.node`);
}

if (process.platform === "linux") {
  await withLock(() => build(process.argv.includes("--force")));
} else {
  console.log(`@kvferry/native: nothing to compile on ${process.platform}; it needs Linux`);
}
